"""Images of numbers, drawn by matplotlib without a display. Only the functions here import it."""

"""What people see: the console, progress bars, help, and the tables of plans, results and layers. Knows rich."""

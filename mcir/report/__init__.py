"""What people look at: pages that need nothing beside themselves, drawings, and pictures side by side."""

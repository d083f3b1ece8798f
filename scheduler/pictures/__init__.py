"""Pictures for people. Importing a module of this room imports matplotlib: only a command that draws does."""

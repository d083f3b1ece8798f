"""Data that lives on the device, and what is done to it there."""

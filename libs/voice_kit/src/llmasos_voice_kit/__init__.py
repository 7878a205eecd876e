"""What plugins that hear and speak share."""

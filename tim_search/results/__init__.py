"""What a search has found: its folder opened, models grouped, searches compared and merged, choices confirmed."""

"""Every knob once, with its unit; unknown keys and contradictions are refused. No torch here."""

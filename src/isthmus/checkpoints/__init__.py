"""Files ↔ BridgeFile: strict, nothing unpickled, no module built here."""

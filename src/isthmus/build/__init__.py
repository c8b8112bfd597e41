"""Config or BridgeFile → objects: the only room that knows both."""

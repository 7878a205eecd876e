"""Calls of plugins, guarded: whatever they raise becomes an error that names them, and a watchdog notices one that does not return.

Core and the conformance kit use it; a plugin does not have to.
"""

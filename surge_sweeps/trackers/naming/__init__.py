"""How runs that this tool did not start name their losses, steps and settings; works on `StoredRun` of any tracker."""

"""The commands `surge-sweep` and `surge-report`: thin, one module each; the library does the work."""

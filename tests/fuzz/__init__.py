"""Files that are cut off, damaged or lie about themselves, and what must become of them: `make fuzz`."""

"""Measure time, memory and quality beside other libraries: `jaxfuse bench`."""

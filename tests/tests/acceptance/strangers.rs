//! Programs and tools that nobody here wrote.

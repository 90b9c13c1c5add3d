//! Private servers for tests, benchmarks and the demo.

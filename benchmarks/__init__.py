"""What is measured rather than tested; docs/performance.md says how, and what came of it."""

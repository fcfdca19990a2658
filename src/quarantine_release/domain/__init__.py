"""The vocabulary and the rules: ids, rows, states, what they mean. Pure, and imports nothing else of ours."""

"""Objects that stay where they are: what is exported, the proxies for it, and who still refers to it."""

"""The bench: pymux beside what people have, measured on their own machine."""

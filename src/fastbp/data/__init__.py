"""Data that ship with fastbp, read by `fastbp.demo.load_digits`; README.md has source and licence."""

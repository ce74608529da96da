"""What tests/bench/run is made of; see HACKING.md for how to use it."""

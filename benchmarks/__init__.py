"""What this repository says about speed, measured: `make bench`, or `python -m benchmarks NAME`."""

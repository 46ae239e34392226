"""Adds up a column of euros and converts it: the program that the agent starts."""

import csv
import sys

path, rate = sys.argv[1], float(sys.argv[2])
with open(path, newline="") as file:
    total = sum(float(row["eur"]) for row in csv.DictReader(file))
print(f"{total:.2f} EUR = {total * rate:.2f} USD")

"""How good the predictors are, beside their peers, on measurements that anyone may bring.

`python -m predictors.evaluate --data DIR [--train DIR] --json` reads the measurements
(`data`), picks what each method is given and what it must predict (`tasks`), asks the peers
(`peers`) and planner's own predictors (`ours`), and prints errors and coverage (`scores`).
"""

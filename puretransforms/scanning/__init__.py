"""Is this data set poisoned, how, and what cures it?"""

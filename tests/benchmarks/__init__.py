"""Measurements that are run by hand, one module each; pytest only checks that they still work."""

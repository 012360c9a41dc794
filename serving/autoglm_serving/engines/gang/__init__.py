"""Gangs: the processes that hold one model together, each a part of it, and that live and die as one."""

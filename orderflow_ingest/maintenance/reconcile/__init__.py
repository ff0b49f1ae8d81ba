"""Compare spool, rows, archive and queue, and repair what is safe to repair.

reconciler   goes through an organization, and through what belongs to none
comparison   compares the rows and objects of one organization
orphans      decides what to do with raw mail that has no row
spool        looks at the spool entries and dead letters of this host
findings     the kinds of findings, and the options of a run
"""

"""Rebuild the rows of a deployment from its archive.

rebuilder       goes through the organizations and their mail
organizations   finds the organizations in the archive
parse_object    makes the rows of one mail from its object
process_pool    parses in several processes; worker_process is one of them
"""

"""Import mail from files into an organization.

importer  takes one mail in, as a delivery does
sources   finds the mails of files and directories
mbox      splits an mbox file into its mails
"""

"""Module names of former versions that files outside this package still import.

The package's __path__ ends with this directory, so that `orderflow_ingest.deliver_cli` is found here. A name stays for
as long as a deployment may have it in a file that an upgrade does not write again:

    deliver_cli    master.cf, as `orderflow-admin postfix master` printed it
    handover       document handlers, and ORDERFLOW_DOCUMENT_HANDLER in the settings
    status         document handlers that compare the kind of a document
"""

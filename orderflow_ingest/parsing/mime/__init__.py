"""Our own reader of MIME: lenient, over bytes, by offsets.

The standard library's `email` was measured first and cannot be bent to this: one odd header line makes it take the
rest of a header for the body, it loses half of what RFC 2231 mailers get wrong, and it keeps several copies of a mail.

fields      header fields of RFC 5322
header_end  content that a header without its empty line swallowed
words       encoded words of RFC 2047
charsets    bytes to text under any label
parameters  Content-Type and Content-Disposition, RFC 2231
scanner     boundary lines and header ends
entities    what a header says of its content
tree        the walk over containers and leaves
bodies      content transfer encodings
filenames   names made safe
sniff       types recognized by content

Guarantees of all: nothing raises on any input, everything takes linear time. No I/O, no clock, no settings.
"""

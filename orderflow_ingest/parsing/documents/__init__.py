"""Every part of a mail, and which of them are documents: the policy on top of the MIME reader and the openers.

part           a part, its kind, the reasons
walk           the walk through a mail and the containers in it
policy         what counts as a document, and how many do
read_monitor   how long reading may take, and which part is being read
content_types  what a part claims to be and what it is
text_bodies    text bodies: which of alternatives are documents, which pictures they show
comparison     whether one text says what another says
pictures       which pictures of a page are documents, and those that stand in the page itself
html_to_text   HTML made text
markup         pages made safe for the parser
styles         text that is hidden

Guarantees: every part is given with the reason why it is a document or is skipped. Nothing in a mail raises. A part
whose decoding or opening fails is given out whole with a defect, and never costs the others. Content is decoded part by
part, as the caller asks for the next. A multipart's data is empty, since its parts come after it. ImportError and
MemoryError do pass: they concern this machine and not the mail, and must not make a document of it.
"""

from .part import Part, PartKind, Reason
from .policy import DocumentLimit, accept_types
from .read_monitor import ReadMonitor
from .walk import read_parts

__all__ = ["DocumentLimit", "Part", "PartKind", "ReadMonitor", "Reason", "accept_types", "read_parts"]

"""The main job, shown: a purchase order by SMTP into a private Postfix, and what became of it.

Everything is real and embedded: Postfix on a loopback port, `orderflow-deliver` behind its pipe, the warm service,
a Huey consumer, SQLite, files. What is printed is read back from the programs. Ends with 1 if anything is not
as it should be.
"""

import argparse
import io
import sys
import time
import uuid
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path

from openpyxl import Workbook

from ..order_pdf import PDF
from . import smtp
from .deployment import DOMAIN, Deployment
from .process import scratch

BUYER = "purchasing@buyer.example"


def purchase_order() -> bytes:
    """Write a purchase order with a PDF, an Excel and a CSV attachment."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = BUYER, f"orders@{DOMAIN}", "Purchase order 4711: 12 widgets"
    mail["Date"], mail["Message-ID"] = formatdate(), f"<{uuid.uuid4()}@buyer.example>"
    mail.set_content("Please find our order attached.\n")
    book, sheet = Workbook(), io.BytesIO()
    book.active.append(["item", "quantity"])
    book.active.append(["widget", 12])
    book.save(sheet)
    excel = "vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    mail.add_attachment(PDF, maintype="application", subtype="pdf", filename="order-4711.pdf")
    mail.add_attachment(sheet.getvalue(), maintype="application", subtype=excel, filename="order-4711.xlsx")
    mail.add_attachment(b"item,quantity\nwidget,12\n", maintype="text", subtype="csv", filename="positions.csv")
    return mail.as_bytes()


def main() -> None:
    """Run the demo."""
    arguments = argparse.ArgumentParser(prog="script/demo", description="Send an order through a private deployment.")
    arguments.add_argument("--keep", action="store_true", help="leave it running, to be tried by hand")
    keep = arguments.parse_args().keep
    with scratch() as place:
        deployment = Deployment(place, service=True)
        deployment.set_up("acme")
        with deployment:
            ok = show(deployment)
            print("\nAs it should be." if ok else "\nNOT as it should be: see above.")
            if keep:
                wait(deployment)
    sys.exit(not ok)


def show(deployment: Deployment) -> bool:
    """Send the mails, print what became of them, and tell whether all is as it should be."""
    order, acme = purchase_order(), f"orders+acme@{DOMAIN}"
    port = deployment.postfix.smtp_port
    print(f"Postfix listens on 127.0.0.1:{port}; state is in {deployment.state}\n")
    first = smtp.send(port, BUYER, [acme], order)
    assert first.data
    print(f"order for {acme}: {first.data.code} {first.data.text}")
    rows = deployment.wait_finished(1)
    documents = deployment.documents(rows[0]["id"])
    unknown = smtp.send(port, BUYER, [f"orders+nobody@{DOMAIN}"], order).rcpt[0]
    print(f"order for orders+nobody@{DOMAIN}: {unknown.code} {unknown.text}")
    again = smtp.send(port, BUYER, [acme], order)
    assert again.data
    print(f"the same order again: {again.data.code} {again.data.text}")
    deployment.postfix.wait_log(r"status=sent \(.*message known already")
    rows = deployment.wait_finished(1)
    print("\nThe message's row:\n" + deployment.replay("list"))
    print("Its documents:\n" + deployment.replay("documents", rows[0]["id"]))
    names = {document["filename"] for document in documents}
    return (
        (first.data.code, again.data.code, unknown.code) == (250, 250, 550)
        and [row["status"] for row in rows] == ["PARSED"]
        and names == {None, "order-4711.pdf", "order-4711.xlsx", "positions.csv"}
    )


def wait(deployment: Deployment) -> None:
    """Say how to try it by hand, and wait for Ctrl-C."""
    mail = Path(deployment.directory) / "order.eml"
    mail.write_bytes(purchase_order())
    run, port = (
        f"ORDERFLOW_SETTINGS={deployment.settings_file} {deployment.programs}",
        deployment.postfix.smtp_port,
    )
    print(f"""
It is left running. Try, from another terminal as root:
  curl smtp://127.0.0.1:{port} --mail-from {BUYER} --mail-rcpt orders+acme@{DOMAIN} --upload-file {mail}
  {run}/orderflow-admin org add beta
  {run}/orderflow-admin status
  {run}/orderflow-admin check --postfix-config {deployment.postfix.config_directory}
  {run}/orderflow-replay list
  tail -f {deployment.postfix.directory}/maillog {deployment.worker.log}
Ctrl-C ends it and removes {deployment.directory}.""")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()

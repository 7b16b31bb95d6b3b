"""The corpus: what comes back, and what only looks like it. ``test_corpus`` runs it; the fuzzers mutate it."""

from __future__ import annotations

from tests.support.returned import (
    OURS,
    Mail,
    arf,
    body,
    exchange,
    exim,
    google,
    mail,
    multi,
    original,
    plain,
    postfix,
    qmail,
    returned,
    sendmail,
    status,
    text,
    who,
    word,
)  # fmt: skip

A, B, C = "anna@example.org", "bob@example.com", "cleo@example.net"
DAEMON = "Mail Delivery System <MAILER-DAEMON@mx.example.net>"
POST = "Postmaster <postmaster@example.org>"

STANDARD = [
    mail(
        "postfix-unknown",
        "bounce",
        f"{A} suppress",
        postfix(
            A,
            "5.1.1",
            "550 5.1.1 <anna@example.org>: Recipient address rejected: User unknown in virtual mailbox table",
        ),
    ),
    mail(
        "postfix-in-reply-to",
        "bounce",
        f"{A} suppress",
        postfix(A, "5.0.0", "550\tunknown user <anna@example.org> (in reply to RCPT TO command)"),
    ),
    mail(
        "postfix-queue-too-long",
        "bounce",
        f"{A} soft",
        postfix(A, "4.4.1", "I'm not going to try again; this message has been in the queue too long."),
    ),
    mail(
        "postfix-full",
        "bounce",
        f"{A} soft",
        postfix(A, "5.2.2", "552 5.2.2 <anna@example.org>: Recipient address rejected: Mailbox full"),
    ),
    mail(
        "postfix-spamhaus",
        "bounce",
        f"{A} hold",
        postfix(
            A,
            "5.7.1",
            "554 5.7.1 Service unavailable; Client host [192.0.2.25] blocked using zen.spamhaus.org",
        ),
    ),
    mail(
        "postfix-content",
        "bounce",
        f"{A} hold",
        postfix(A, "5.7.1", "550 5.7.1 Message rejected as spam by content filter"),
    ),
    mail(
        "postfix-delayed",
        "delayed",
        f"{A} retry",
        postfix(A, "4.4.1", "450 4.2.1 The mailbox is busy, try later", "delayed"),
    ),
    mail(
        "postfix-host-unknown",
        "bounce",
        f"{B} suppress",
        postfix(
            B,
            "5.4.4",
            "550 5.1.2 Host or domain name not found. Name service error for name=example.com type=MX: Host not found",
        ),
    ),
    mail(
        "postfix-dmarc",
        "bounce",
        f"{A} hold",
        postfix(
            A, "5.7.26", "550 5.7.26 This mail has been rejected: DMARC policy of shop.example is reject"
        ),
    ),
    mail(
        "postfix-size",
        "bounce",
        f"{A} hold",
        postfix(A, "5.3.4", "552 5.3.4 Message size exceeds fixed limit"),
    ),
    mail(
        "postfix-disabled",
        "bounce",
        f"{A} suppress",
        postfix(A, "5.2.1", "550 5.2.1 The email account that you tried to reach is disabled"),
    ),
    mail(
        "postfix-block-in-511",
        "bounce",
        f"{A} hold",
        postfix(A, "5.1.1", "550 5.1.1 Your IP is on our blacklist, mail refused"),
    ),
    mail(
        "exim-unknown",
        "bounce",
        f"{A} suppress",
        exim(
            (
                A,
                "SMTP error from remote mail server after RCPT TO:<anna@example.org>:\n    host mx.example.org [192.0.2.80]: 550 5.1.1 <anna@example.org>: User unknown",
            )
        ),
    ),
    mail("exim-unrouteable", "bounce", f"{A} suppress", exim((A, "Unrouteable address"))),
    mail(
        "exim-quota",
        "bounce",
        f"{A} soft",
        exim((A, "mailbox is full (MTA-imposed quota exceeded while writing to file /mail/anna)")),
    ),
    mail(
        "exim-two",
        "bounce",
        f"{A} suppress, {B} soft",
        exim(
            (A, "host mx [192.0.2.1]: 550 5.1.1 No such user here"),
            (B, "host mx [192.0.2.2]: 552 5.2.2 Over quota"),
        ),
    ),
    mail("exim-retry-timeout", "bounce", f"{A} soft", exim((A, "retry timeout exceeded"))),
    mail(
        "exim-blocked",
        "bounce",
        f"{A} hold",
        exim(
            (A, "host mx [192.0.2.80]: 550 5.7.1 Blocked - see https://www.spamcop.net/bl.shtml?192.0.2.25")
        ),
    ),
    mail(
        "exim-delayed", "delayed", f"{A} retry", exim((A, "Delay reason: connection timed out"), final=False)
    ),
    mail(
        "qmail-unknown",
        "bounce",
        f"{A} suppress",
        qmail((A, "Sorry, no mailbox here by that name. (#5.1.1)")),
    ),
    mail(
        "qmail-vpopmail",
        "bounce",
        f"{A} suppress",
        qmail(
            (
                A,
                "192.0.2.80 does not like recipient.\nRemote host said: 550 5.1.1 no such user\nGiving up on 192.0.2.80.",
            )
        ),
    ),
    mail(
        "qmail-two",
        "bounce",
        f"{A} suppress, {C} hold",
        qmail(
            (A, "This address no longer accepts mail. (#5.1.1)"),
            (
                C,
                "192.0.2.80 failed after I sent the message.\nRemote host said: 554 5.7.1 rejected due to spam content",
            ),
        ),
    ),
    mail("qmail-quota", "bounce", f"{A} soft", qmail((A, "The user is over quota. (#5.2.2)"))),
    mail(
        "qmail-expired",
        "bounce",
        f"{A} soft",
        qmail((A, "I'm not going to try again; this message has been in the queue too long. (#4.4.7)")),
    ),
    mail(
        "qmail-dns",
        "bounce",
        f"{A} suppress",
        qmail((A, "Sorry, I couldn't find any host named example.org. (#5.1.2)")),
    ),
    mail(
        "sendmail-unknown",
        "bounce",
        f"{A} suppress",
        sendmail(A, "5.1.1", "550 5.1.1 <anna@example.org>... User unknown"),
    ),
    mail(
        "sendmail-blocked",
        "bounce",
        f"{A} hold",
        sendmail(A, "5.7.1", "553 5.7.1 Mail from 192.0.2.25 refused, see blocklist", "Service unavailable"),
    ),
    mail(
        "exchange-online-unknown",
        "bounce",
        f"{A} suppress",
        exchange(
            A,
            "5.1.10",
            "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
        ),
    ),
    mail(
        "exchange-online-full",
        "bounce",
        f"{A} soft",
        exchange(
            A,
            "5.2.2",
            "554 5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceededException.MapiExceptionShutoffQuotaExceeded",
            f"Your message to {A} couldn't be delivered.\nThe mailbox is full.",
        ),
    ),
    mail(
        "exchange-online-denied",
        "bounce",
        f"{A} hold",
        exchange(
            A,
            "5.7.133",
            "550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; authentication required",
            "Your message couldn't be delivered because you aren't allowed to send to it.",
        ),
    ),
    mail(
        "exchange-de",
        "bounce",
        f"{A} suppress",
        exchange(
            A,
            "5.1.10",
            "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
            f"Fehler bei der Nachrichtenzustellung an folgende Empfänger oder Gruppen:\n\n{A}\nDie eingegebene E-Mail-Adresse konnte nicht gefunden werden.",
            "Unzustellbar: Frühjahrsangebote",
            "Diagnoseinformationen für Administratoren:",
        ),
    ),
    mail(
        "exchange-fr",
        "bounce",
        f"{A} suppress",
        exchange(
            A,
            "5.1.1",
            "550 5.1.1 RESOLVER.ADR.RecipNotFound; not found",
            f"Échec de la remise pour ces destinataires ou groupes :\n\n{A}\nL'adresse de messagerie que vous avez entrée est introuvable.",
            "Non remis : Les nouvelles du printemps",
            "Informations de diagnostic pour les administrateurs :",
        ),
    ),
    mail(
        "exchange-es",
        "bounce",
        f"{A} suppress",
        exchange(
            A,
            "5.1.1",
            "550 5.1.1 RESOLVER.ADR.RecipNotFound; not found",
            f"No se pudo entregar el mensaje a estos destinatarios o grupos:\n\n{A}\nNo se encontró la dirección.",
            "No se puede entregar: Noticias",
            "Información de diagnóstico para administradores:",
        ),
    ),
    mail(
        "exchange-pt",
        "bounce",
        f"{A} soft",
        exchange(
            A,
            "5.2.2",
            "554 5.2.2 mailbox full",
            f"Falha na entrega para estes destinatários:\n\n{A}\nA caixa de correio está cheia.",
            "Não entregue: Novidades",
            "Informações de diagnóstico para administradores:",
        ),
    ),
    mail(
        "exchange-it",
        "bounce",
        f"{A} suppress",
        exchange(
            A,
            "5.1.1",
            "550 5.1.1 RESOLVER.ADR.RecipNotFound; not found",
            f"Recapito non riuscito per i destinatari o i gruppi seguenti:\n\n{A}\nIndirizzo non trovato.",
            "Non recapitabile: Novità",
            "Informazioni di diagnostica per gli amministratori:",
        ),
    ),
    mail(
        "exchange-ja",
        "bounce",
        f"{A} suppress",
        exchange(
            A,
            "5.1.10",
            "550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found",
            f"次の受信者またはグループへの配信に失敗しました:\n\n{A}\n入力した電子メール アドレスが見つかりませんでした。",
            "配信不能: 春のお知らせ",
            "管理者向けの診断情報:",
        ),
    ),
    mail(
        "exchange-ru",
        "bounce",
        f"{A} suppress",
        exchange(
            A,
            "5.1.1",
            "550 5.1.1 RESOLVER.ADR.RecipNotFound; not found",
            f"Не удалось доставить сообщение следующим получателям или группам:\n\n{A}\nАдрес не найден.",
            "Недоставлено: Весна",
            "Диагностические сведения для администраторов:",
        ),
    ),
    mail(
        "exchange-zh",
        "bounce",
        f"{A} suppress",
        exchange(
            A,
            "5.1.10",
            "550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found",
            f"未能向这些收件人或组传递邮件:\n\n{A}\n找不到你输入的电子邮件地址。",
            "未送达: 春季",
            "管理员的诊断信息:",
        ),
    ),
    mail(
        "gmail-unknown",
        "bounce",
        f"{A} suppress",
        google(
            A,
            "5.1.1",
            "550-5.1.1 The email account that you tried to reach does not exist. Please try\n 550-5.1.1 double-checking the recipient's email address for typos or\n 550 5.1.1 unnecessary spaces. - gsmtp",
            "Address not found",
        ),
    ),
    mail(
        "gmail-full",
        "bounce",
        f"{A} soft",
        google(
            A,
            "5.2.2",
            "552-5.2.2 The email account that you tried to reach is over quota. - gsmtp",
            "Recipient inbox full",
        ),
    ),
    mail(
        "gmail-blocked",
        "bounce",
        f"{A} hold",
        google(
            A,
            "5.7.1",
            "550-5.7.1 [192.0.2.25] Gmail has detected that this message is\n 550-5.7.1 likely unsolicited mail. - gsmtp",
            "Message blocked",
        ),
    ),
    mail(
        "gmail-delay",
        "delayed",
        f"{A} retry",
        google(
            A,
            "4.4.1",
            "The recipient server did not accept our requests to connect.",
            "Delivery incomplete",
            "delayed",
        ),
    ),
    mail(
        "gmail-dns",
        "bounce",
        f"{B} suppress",
        google(
            B,
            "5.1.2",
            "DNS Error: 12345 DNS type 'mx' lookup of example.com responded with code NXDOMAIN\n Domain name not found: example.com",
            "Address not found",
        ),
    ),
]


def _old_exchange(to: str, words: str) -> bytes:
    return plain(
        "System Administrator <postmaster@corp.example>",
        "Undeliverable: Spring news",
        f"Your message\n\n  To:      {to}\n  Subject: Spring news\n  Sent:    Mon, 2 Jun 2025 08:00:00 -0000\n\ndid not reach the following recipient(s):\n\n{words}\n",
        "X-Mailer: Internet Mail Service (5.5.2653.19)\n",
    )


REPORTS = [
    mail(
        "several",
        "bounce",
        f"{A} suppress, {B} soft, {C} none",
        multi(
            DAEMON,
            "Undelivered Mail",
            text("Some of it failed."),
            status(
                who(A, "5.1.1", "smtp; 550 5.1.1 no such user"),
                who(B, "5.2.2", "smtp; 552 5.2.2 mailbox full"),
                who(C, "2.0.0", "smtp; 250 2.0.0 ok", "delivered"),
            ),
            returned(A),
        ),
    ),
    mail(
        "relayed",
        "none",
        f"{A} none",
        multi(
            DAEMON,
            "Successful Mail Delivery Report",
            text("Your message was relayed."),
            status(who(A, "2.0.0", "smtp; 250 2.0.0 queued", "relayed")),
            returned(A, False),
        ),
    ),
    mail(
        "expanded",
        "none",
        f"{A} none",
        multi(
            DAEMON,
            "Delivery Status Notification",
            text("Expanded to a list."),
            status(who(A, "2.0.0", "", "expanded")),
            returned(A, False),
        ),
    ),
    mail(
        "delivered",
        "none",
        f"{A} none",
        multi(
            DAEMON,
            "Delivery report",
            text("Delivered."),
            status(who(A, "2.1.5", "", "delivered")),
            returned(A, False),
        ),
    ),
    mail(
        "mixed-delay-and-failure",
        "bounce",
        f"{A} retry, {B} suppress",
        multi(
            DAEMON,
            "Delivery report",
            text("See below."),
            status(
                who(A, "4.4.1", "smtp; 451 4.4.1 timeout", "delayed"),
                who(B, "5.1.1", "smtp; 550 5.1.1 unknown user"),
            ),
            returned(A),
        ),
    ),
    mail(
        "original-recipient",
        "bounce",
        f"{A} suppress",
        multi(
            DAEMON,
            "Undelivered",
            text("Failed."),
            status(
                f"Original-Recipient: rfc822;{A}\nFinal-Recipient: rfc822;anna.old@forward.example\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1 unknown"
            ),
            returned(A),
        ),
    ),
    mail(
        "xtext",
        "bounce",
        "anna+list@example.org suppress",
        multi(
            DAEMON,
            "Undelivered",
            text("Failed."),
            status(
                "Original-Recipient: rfc822;anna+2Blist@example.org\nFinal-Recipient: rfc822;anna+2Blist@example.org\nAction: failed\nStatus: 5.1.1"
            ),
            returned("anna+list@example.org"),
        ),
    ),
    mail(
        "utf8-dsn",
        "bounce",
        "jörg@bücher.example suppress",
        multi(
            DAEMON,
            "Undelivered",
            text("Failed."),
            status(
                "Final-Recipient: utf-8; j\\x{F6}rg@b\\x{FC}cher.example\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1 no such mailbox",
                kind="message/global-delivery-status",
            ),
            "Content-Type: message/global\n\nSubject: x\n",
        ),
    ),
    mail(
        "utf8-dsn-raw",
        "bounce",
        "用户@例子.example soft",
        multi(
            DAEMON,
            "Undelivered",
            text("Failed."),
            status(
                "Final-Recipient: utf-8; 用户@例子.example\nAction: failed\nStatus: 5.2.2\nDiagnostic-Code: smtp; 552 5.2.2 full",
                kind="message/global-delivery-status",
            ),
        ),
    ),
    mail(
        "status-in-base64",
        "bounce",
        f"{A} suppress",
        multi(
            DAEMON,
            "Undelivered",
            text("Failed."),
            body(
                f"Reporting-MTA: dns; mx\n\n{who(A, '5.1.1', 'smtp; 550 5.1.1 unknown')}\n",
                kind="message/delivery-status",
            ),
        ),
    ),
    mail(
        "status-in-qp",
        "bounce",
        f"{A} suppress",
        multi(
            DAEMON,
            "Undelivered",
            text("Failed."),
            body(
                f"Reporting-MTA: dns; mx\n\n{who(A, '5.1.1', 'smtp; 550 5.1.1 unknown')}\n",
                "utf-8",
                "quoted-printable",
                "message/delivery-status",
            ),
        ),
    ),
    mail(
        "no-address-in-report",
        "bounce",
        f"{A} suppress",
        multi(
            DAEMON,
            "Undelivered",
            text(f"The following address failed:\n\n{A}\n    550 5.1.1 no such user"),
            status("Action: failed\nStatus: 5.1.1"),
            returned(A),
        ),
    ),
    mail(
        "no-diagnostic",
        "bounce",
        f"{A} suppress",
        multi(DAEMON, "Undelivered", text(f"{A}: unknown user"), status(who(A, "5.1.1")), returned(A)),
    ),
    mail(
        "only-diagnostic",
        "bounce",
        f"{A} suppress",
        multi(
            DAEMON,
            "Undelivered",
            text("Failed"),
            status(f"Final-Recipient: rfc822; {A}\nDiagnostic-Code: smtp; 550 5.1.1 unknown user"),
            returned(A),
        ),
    ),
    mail(
        "status-500-words-say-full",
        "bounce",
        f"{A} soft",
        multi(
            DAEMON,
            "Undelivered",
            text("Failed"),
            status(who(A, "5.0.0", "smtp; 550 mailbox is full, quota exceeded")),
            returned(A),
        ),
    ),
    mail(
        "x400",
        "bounce",
        f"{A} suppress",
        multi(
            "postmaster@gate.example.org",
            "Delivery report",
            text(
                "This report relates to a message you sent.\nYour message was not delivered to: Anna\nfor the following reason: Recipient unknown"
            ),
            status(
                f"Original-Recipient: rfc822; {A}\nFinal-Recipient: x400; /G=Anna/S=Muster/O=Corp/PRMD=Corp/ADMD=Provider/C=DE/\nX400-Conversion-Date: 2 Jun 2025\nAction: failed\nStatus: 5.1.1 (unrecognised O/R name)\nDiagnostic-Code: x400; 1 (Transfer-failure) 0 (unrecognised-OR-name)",
                mta="x400; mta gate in /PRMD=corp/ADMD=provider/C=de/",
            ),
            returned(A),
        ),
    ),
    mail(
        "expired-4xx-failed",
        "bounce",
        f"{A} soft",
        multi(
            DAEMON,
            "Undelivered",
            text("Gave up."),
            status(who(A, "4.4.7", "smtp; 451 4.4.7 delivery time expired")),
            returned(A),
        ),
    ),
    mail(
        "greylisted-to-the-end",
        "bounce",
        f"{A} soft",
        multi(
            DAEMON,
            "Undelivered",
            text("Gave up."),
            status(who(A, "4.7.1", "smtp; 451 4.7.1 Greylisted, please try again")),
            returned(A),
        ),
    ),
    mail(
        "status-labelled-text",
        "bounce",
        f"{A} suppress",
        multi(
            DAEMON,
            "Undelivered",
            text("Failed."),
            status(who(A, "5.1.1", "smtp; 550 5.1.1 unknown"), kind="text/plain; name=details.txt"),
        ),
    ),
    mail(
        "status-labelled-octets",
        "bounce",
        f"{A} suppress",
        multi(
            DAEMON,
            "Undelivered",
            text("Failed."),
            status(who(A, "5.1.1", "smtp; 550 5.1.1 unknown"), kind="application/octet-stream"),
            kind="mixed",
        ),
    ),
    mail(
        "mixed-not-report",
        "bounce",
        f"{A} suppress",
        multi(
            DAEMON,
            "Undelivered",
            text("Failed."),
            status(who(A, "5.1.1", "smtp; 550 5.1.1 unknown")),
            kind="mixed",
        ),
    ),
    mail(
        "report-in-a-message",
        "bounce",
        f"{A} suppress",
        multi(
            POST,
            "Delivery Status Notification (Failure)",
            b"Content-Type: message/rfc822\n\n"
            + multi(
                DAEMON, "Undelivered", text("Failed."), status(who(A, "5.1.1", "smtp; 550 5.1.1 unknown"))
            ).replace(b"=_ab/12.34", b"=_inner"),
            kind="mixed",
        ),
    ),
    mail(
        "twice-the-same",
        "bounce",
        f"{A} suppress",
        multi(
            DAEMON,
            "Undelivered",
            text("Failed."),
            status(who(A, "5.1.1", "smtp; 550 5.1.1 unknown"), who(A, "5.1.1", "smtp; 550 5.1.1 unknown")),
            returned(A),
        ),
    ),
    mail(
        "crlf",
        "bounce",
        f"{A} suppress",
        postfix(A, "5.1.1", "550 5.1.1 unknown user").replace(b"\n", b"\r\n"),
    ),
    mail(
        "no-end-boundary",
        "bounce",
        f"{A} suppress",
        postfix(A, "5.1.1", "550 5.1.1 unknown user").rpartition(b"--=_ab")[0],
    ),
    mail(
        "boundary-lost",
        "bounce",
        f"{A} suppress",
        postfix(A, "5.1.1", "550 5.1.1 unknown user").replace(b';\n\tboundary="=_ab/12.34"', b""),
    ),
    mail(
        "nested-deep",
        "bounce",
        f"{A} suppress",
        multi(
            DAEMON,
            "Undelivered",
            b"Content-Type: multipart/mixed; boundary=m1\n\n--m1\nContent-Type: multipart/mixed; boundary=m2\n\n--m2\n"
            + status(who(A, "5.1.1", "smtp; 550 5.1.1 unknown")).encode()
            + b"\n--m2--\n--m1--\n",
        ),
    ),
    mail(
        "lotus-domino",
        "bounce",
        f"{A} suppress",
        multi(
            "MAILER-DAEMON@corp.example",
            "DELIVERY FAILURE: User anna (anna@example.org) not listed in Domino Directory",
            text(
                "Your message\n\n  Subject: Spring news\n\nwas not delivered to:\n\n  anna@example.org\n\nbecause:\n\n  User anna (anna@example.org) not listed in Domino Directory\n"
            ),
            status(
                f"Final-Recipient: rfc822;{A}\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: X-Notes; User anna (anna@example.org) not listed in Domino\n Directory",
                mta="dns;domino.corp.example",
            ),
            returned(A),
        ),
    ),
    mail(
        "lotus-domino-in-words",
        "bounce",
        f"{A} suppress",
        f"From: Mail Router <postmaster@domino.example>\nTo: {OURS}\nSubject: DELIVERY FAILURE: User anna ({A}) not listed in "
        f"Domino Directory\nContent-Type: text/plain\n\nYour message\n\n  Subject: Spring news\n\nwas not delivered to:\n\n"
        f"  {A}\n\nbecause:\n\n  User anna ({A}) not listed in Domino Directory\n",
    ),
    mail(
        "courier",
        "bounce",
        f"{A} suppress",
        multi(
            "Courier mail server at mail.example.net <@>",
            "NOTICE: mail delivery status.",
            text(
                f"This is a delivery status notification from mail.example.net,\nrunning the Courier mail server.\n\n                           UNDELIVERABLE MAIL\n\nYour message to the following recipients cannot be delivered:\n\n<{A}>:\n    mx.example.org [192.0.2.80]:\n>>> RCPT TO:<{A}>\n<<< 550 User unknown.\n"
            ),
            status(
                f"Final-Recipient: rfc822; {A}\nAction: failed\nStatus: 5.0.0\nDiagnostic-Code: smtp; 550 User unknown."
            ),
            returned(A),
        ),
    ),
    mail(
        "zimbra",
        "bounce",
        f"{A} suppress",
        multi(
            "MAILER-DAEMON@zimbra.example.net (Mail Delivery System)",
            "Undelivered Mail Returned to Sender",
            text(
                f"This is the mail system at host zimbra.example.net.\n\n<{A}>: host mx[192.0.2.80] said: 550 5.1.1 Recipient address rejected: example.org"
            ),
            status(
                who(A, "5.1.1", "smtp; 550 5.1.1 <anna@example.org>: Recipient address rejected: example.org")
            ),
            returned(A, False),
        ),
    ),
    mail(
        "yahoo",
        "bounce",
        f"{A} suppress",
        multi(
            "MAILER-DAEMON@yahoo.com",
            "Failure Notice",
            text(
                f"Sorry, we were unable to deliver your message to the following address.\n\n<{A}>:\n550: 5.1.1 <{A}>: Email address could not be found, or was misspelled\n\n--- Below this line is a copy of the message.\n"
            ),
            status(who(A, "5.1.1", "smtp; 550 5.1.1 Email address could not be found")),
            returned(A),
        ),
    ),
    mail(
        "icloud",
        "bounce",
        f"{A} suppress",
        multi(
            "Internet Mail Delivery <postmaster@icloud.example>",
            "Delivery Notification: Delivery has failed",
            text(
                f"This report relates to a message you sent with the following header fields:\n\n  Message-id: <x@shop.example>\n  To: {A}\n  Subject: Spring news\n\nYour message cannot be delivered to the following recipients:\n\n  Recipient address: {A}\n  Reason: Illegal user\n"
            ),
            status(
                f"Original-recipient: rfc822;{A}\nFinal-recipient: rfc822;{A}\nAction: failed\nStatus: 5.1.1 (unknown user)\nDiagnostic-code: smtp;550 5.1.1 unknown or illegal alias"
            ),
            returned(A),
        ),
    ),
    mail(
        "gmx",
        "bounce",
        f"{A} suppress",
        multi(
            '"GMX Mailer Daemon" <mailer-daemon@gmx.example>',
            "Mail delivery failed: returning message to sender",
            text(
                f"This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered to one or more of\nits recipients. This is a permanent error. The following address\nfailed:\n\n{A}:\nSMTP error from remote server for RCPT TO command, host: mx.example.org (192.0.2.80) reason: 550 5.1.1 unknown user\n"
            ),
            status(
                who(
                    A,
                    "5.0.0",
                    "smtp; 550-Requested action not taken: mailbox unavailable\n 550 5.1.1 unknown user",
                )
            ),
            returned(A, False),
        ),
    ),
    mail(
        "t-online",
        "bounce",
        f"{A} suppress",
        multi(
            "Mail Delivery Subsystem <mailer-daemon@t-online.example>",
            "Zustellung fehlgeschlagen / Delivery failed",
            text(
                f"|------------------------- Message log follows: -------------------------|\n no valid recipients were found for this message\n|------------------------- Failed addresses follow: ---------------------|\n <{A}> ... transport smtp: 550 5.1.1 Unknown user\n"
            ),
            status(who(A, "5.1.1", "smtp; 550 5.1.1 Unknown user")),
        ),
    ),
    mail(
        "orange-block",
        "bounce",
        f"{A} hold",
        multi(
            DAEMON,
            "Undelivered",
            text("Failed."),
            status(
                who(
                    A,
                    "5.0.0",
                    "smtp; 550 5.2.0 Mail rejete. Mail rejected. OFR_103 [103]",
                    more="\nRemote-MTA: dns; smtp-in.orange.fr",
                )
            ),
            returned(A),
        ),
    ),
    mail(
        "qq-unknown",
        "bounce",
        f"{A} suppress",
        multi(
            "PostMaster <postmaster@qq.example>",
            "系统退信",
            text(
                f"抱歉，您的邮件被退回来了\n\n收件人邮件地址（{A}）不存在，邮件无法送达。\n\nhost mx3.qq.com said: 550 Mailbox not found"
            ),
            status(who(A, "5.1.1", "smtp; 550 Mailbox not found. http://service.mail.qq.com/")),
            returned(A),
        ),
    ),
    mail(
        "163-spam",
        "bounce",
        f"{A} hold",
        multi(
            "Postmaster@163.example",
            "系统退信/Systems bounce",
            text(
                f"抱歉，您的邮件被退回来了…… \n 收件人: {A}\n 554 DT:SPM 发送的邮件内容包含了未被许可的信息"
            ),
            status(who(A, "5.0.0", "smtp; 554 DT:SPM 163 smtp5,blocked")),
            returned(A),
        ),
    ),
    mail(
        "mailru",
        "bounce",
        f"{A} suppress",
        multi(
            "Mail Delivery System <mailer-daemon@corp.mail.example>",
            "Ваше сообщение не доставлено",
            text(
                f"Это письмо создано автоматически сервером.\n\nВаше письмо не может быть доставлено одному или нескольким получателям:\n\n{A}\nSMTP error from remote mail server after RCPT TO: host mxs.mail.example: 550 Message was not accepted -- invalid mailbox.  Local mailbox {A} is unavailable: user not found"
            ),
            status(
                who(
                    A,
                    "5.0.0",
                    "smtp; 550 Message was not accepted -- invalid mailbox.  Local mailbox is unavailable: user not found",
                )
            ),
        ),
    ),
    mail(
        "yandex",
        "bounce",
        f"{A} suppress",
        multi(
            "mailer-daemon@yandex.example",
            "Undelivered Mail Returned to Sender",
            text(
                f"Это письмо отправлено почтовым сервером.\n\n<{A}>: host mx.example.org[192.0.2.80] said: 550 5.7.1 No such user!"
            ),
            status(who(A, "5.7.1", "smtp; 550 5.7.1 No such user!")),
            returned(A),
        ),
    ),
    mail(
        "libero",
        "bounce",
        f"{A} soft",
        multi(
            DAEMON,
            "Undelivered Mail Returned to Sender",
            text("Failed"),
            status(who(A, "5.2.2", "smtp; 552 5.2.2 <anna@example.org>: mailbox full (libero)")),
            returned(A),
        ),
    ),
    mail(
        "dovecot-reject-quota",
        "bounce",
        f"{A} soft",
        multi(
            "Mail Delivery Subsystem <postmaster@example.org>",
            "Automatically rejected mail",
            text(
                f"Your message to <{A}> was automatically rejected:\nQuota exceeded (mailbox for user is full)"
            ),
            f"Content-Type: message/disposition-notification\n\nReporting-UA: mx; Dovecot Mail Delivery Agent\nFinal-Recipient: rfc822; {A}\nDisposition: automatic-action/MDN-sent-automatically; deleted\n",
            returned(A),
            kind="report; report-type=disposition-notification",
        ),
    ),
]

WORDS = [
    mail(
        "old-exchange",
        "bounce",
        f"{A} suppress",
        _old_exchange(
            A,
            f"{A} on Mon, 2 Jun 2025 08:00:10 -0000\n    The recipient name is not recognized\n\tThe MTS-ID of the original message is: c=us;a= ;p=corp;l=EX1\n    MSEXCH:IMS:CORP:SITE:EX1 0 (000C05A6) Unknown Recipient",
        ),
    ),
    mail(
        "old-exchange-x400",
        "bounce",
        f"{A} suppress",
        _old_exchange(
            "lists",
            f"c=US;a= ;p=Corp;o=Site;dda:SMTP={A}; on Mon, 2 Jun 2025\n08:00:10 -0000\n    The recipient name is not recognized",
        ),
    ),
    mail(
        "exchange-2003",
        "bounce",
        f"{A} suppress",
        _old_exchange(
            "Anna",
            f"{A} on 6/2/2025 8:00 AM\n            The e-mail account does not exist at the organization this message was sent to.\n            <mx.corp.example #5.1.1>",
        ),
    ),
    mail(
        "exchange-2003-full",
        "bounce",
        f"{A} soft",
        _old_exchange(
            "Anna",
            f"{A} on 6/2/2025 8:00 AM\n            The recipient's mailbox is full.\n            <mx.corp.example #5.2.2>",
        ),
    ),
    mail(
        "exchange-2003-de",
        "bounce",
        f"{A} suppress",
        plain(
            "Systemadministrator <postmaster@firma.example>",
            "Unzustellbar: Frühling",
            f"Ihre Nachricht hat einige oder alle Empfänger nicht erreicht.\n\n      Betreff:\tFrühling\n      Gesendet:\t02.06.2025 08:00\n\nFolgende(r) Empfänger konnte(n) nicht erreicht werden:\n\n      {A} am 02.06.2025 08:00\n            Das E-Mail-Konto ist in der Organisation nicht vorhanden.\n            <mx.firma.example #5.1.1>\n",
        ),
    ),
    mail(
        "groupwise",
        "bounce",
        f"{A} suppress",
        plain(
            "Mailer-Daemon@corp.example",
            "Message status - undeliverable",
            f"\nThe message that you sent was undeliverable to the following:\n\tanna ({A} user not found)\n",
            "X-Mailer: Novell GroupWise\n",
        ),
    ),
    mail(
        "imail",
        "bounce",
        f"{A} suppress",
        plain(
            "Postmaster <postmaster@mail.example.org>",
            "Undeliverable Mail",
            f"Unknown user: {A}\n\nOriginal message follows.\n\n{original(A)}",
            "X-Mailer: <SMTP32 v8.15>\n",
        ),
    ),
    mail(
        "imail-two",
        "bounce",
        f"{A} suppress, {B} suppress",
        plain(
            "Postmaster <postmaster@mail.example.org>",
            "Undeliverable Mail",
            f"Unknown user: {A}\n\nRCPT TO generated following response:\n550 5.1.1 <{A}>... Addressee unknown\n\nUnknown user: {B}\n\nRCPT TO generated following response:\n550 5.1.1 <{B}>... Addressee unknown\n\nOriginal message follows.\n\n{original(A)}",
            "X-Mailer: <SMTP32 v8.15>\n",
        ),
    ),
    mail(
        "imail-full",
        "bounce",
        f"{A} soft",
        plain(
            "Postmaster <postmaster@mail.example.org>",
            "Undeliverable Mail",
            f"User mailbox exceeds allowed size: {A}\n\nOriginal message follows.\n\n{original(A)}",
            "X-Mailer: <SMTP32 v8.15>\n",
        ),
    ),
    mail(
        "mdaemon",
        "bounce",
        f"{A} suppress",
        plain(
            "MDaemon@mail.example.org",
            "Permanent Delivery Failure",
            f"The attached message had PERMANENT fatal delivery errors!\n\nFailed address: {A}\n\n--- Session Transcript ---\n Mon 2025-06-02 08:00:00: --> RCPT To:<{A}>\n Mon 2025-06-02 08:00:01: <-- 550 <{A}>, Recipient unknown\n--- End Transcript ---\n",
            "Precedence: bulk\n",
        ),
    ),
    mail(
        "mercury",
        "bounce",
        f"{A} suppress",
        plain(
            "Electronic Postmaster <postmaster@example.org>",
            "Postmaster notify: delivery failure",
            f"Your mail message to the following address(es) could not be delivered. This\nis a permanent failure, and the server will not attempt to deliver the message\nagain.\n\n<{A}>: 553 5.3.0 We are not interested in receiving mail from you: no such user\n",
            "X-Mailer: Mercury/32 v4.8\n",
        ),
    ),
    mail(
        "sendmail-old",
        "bounce",
        f"{A} suppress",
        plain(
            "Mail Delivery Subsystem <MAILER-DAEMON@old.example.net>",
            "Returned mail: User unknown",
            f"The original message was received at Mon, 2 Jun 2025 08:00:00 GMT\nfrom out.shop.example [192.0.2.25]\n\n   ----- The following addresses have delivery notifications -----\n<{A}>  (unrecoverable error)\n\n   ----- Transcript of session follows -----\n... while talking to mx.example.org.:\n>>> RCPT To:<{A}>\n<<< 550 <{A}>... User unknown\n550 <{A}>... User unknown\n\n   ----- Original message follows -----\n\n{original(A)}",
        ),
    ),
    mail(
        "sendmail-host-unknown",
        "bounce",
        f"{A} suppress",
        plain(
            "Mail Delivery Subsystem <MAILER-DAEMON@old.example.net>",
            "Returned mail: Host unknown (Name server: example.org: host not found)",
            f"   ----- The following addresses had permanent fatal errors -----\n<{A}>\n\n   ----- Transcript of session follows -----\n550 5.1.2 <{A}>... Host unknown (Name server: example.org: host not found)\n\n   ----- Message header follows -----\n{original(A, whole=False)}",
        ),
    ),
    mail(
        "sendmail-warning",
        "delayed",
        f"{A} retry",
        plain(
            "Mail Delivery Subsystem <MAILER-DAEMON@old.example.net>",
            "Warning: could not send message for past 4 hours",
            f"    **********************************************\n    **      THIS IS A WARNING MESSAGE ONLY      **\n    **  YOU DO NOT NEED TO RESEND YOUR MESSAGE  **\n    **********************************************\n\n   ----- The following addresses had transient non-fatal errors -----\n<{A}>\n\n   ----- Transcript of session follows -----\n<{A}>... Deferred: Connection timed out with mx.example.org.\nWarning: message still undelivered after 4 hours\nWill keep trying until message is 5 days old\n",
        ),
    ),
    mail(
        "yahoo-html",
        "bounce",
        f"{A} suppress",
        plain(
            "MAILER-DAEMON@yahoo.com",
            "Failure Notice",
            f"<html><body>Sorry, we were unable to deliver your message to the following address.<br><br>&lt;{A}&gt;:<br>554: delivery error: dd This user doesn't have a yahoo.com account ({A}) [0] - mta1.example<br><br>--- Below this line is a copy of the message.<br></body></html>",
        ).replace(b"text/plain", b"text/html"),
    ),
    mail(
        "html-only",
        "bounce",
        f"{A} suppress",
        plain(
            "Mail Administrator <postmaster@example.org>",
            "Undeliverable mail",
            f"<html><head><title>x</title></head><body><p>Your message could not be delivered to:</p><p><b>{A}</b></p><p>Reason: the mailbox does not exist.</p></body></html>",
            encoding="base64",
        ).replace(b"text/plain", b"text/html"),
    ),
    mail(
        "mimecast",
        "bounce",
        f"{A} suppress",
        plain(
            "Mail Delivery System <mailer-daemon@corp.example>",
            "[Postmaster] Email Delivery Failure",
            f"This is a delivery failure notification message indicating that\nan email you addressed to email address :\n-- {A}\n\ncould not be delivered. The problem appears to be :\n-- Recipient email address is possibly incorrect\n\nAdditional information follows :\n-- 550 5.1.1 User Unknown\n",
        ),
    ),
    mail(
        "mimecast-policy",
        "bounce",
        f"{A} hold",
        plain(
            "Mail Delivery System <mailer-daemon@corp.example>",
            "[Postmaster] Email Delivery Failure",
            f"This is a delivery failure notification message indicating that\nan email you addressed to email address :\n-- {A}\n\ncould not be delivered. The problem appears to be :\n-- Recipient server rejected it\n\nAdditional information follows :\n-- 554 Email rejected due to security policies\n",
        ),
    ),
    mail(
        "interscan",
        "bounce",
        f"{A} suppress",
        multi(
            "imss@example.org",
            "Mail could not be delivered",
            text(
                f"****** Message from InterScan Messaging Security Suite ******\n\nSent <<< RCPT TO:<{A}>\nReceived >>> 550 5.1.1 <{A}>... User unknown\n\nUnable to deliver message to <{A}>.\n\n************************     End of message     **********************"
            ),
            returned(A),
            kind="mixed",
        ),
    ),
    mail(
        "sina",
        "bounce",
        f"{A} suppress",
        plain(
            "MAILER-DAEMON@sina.example",
            "",
            f"您的邮件无法投递到以下地址:\n<{A}>:\n该用户不存在\n",
            charset="gb2312",
        ),
    ),
    mail(
        "netease-html-gbk",
        "bounce",
        f"{A} suppress",
        plain(
            "Postmaster@126.example",
            "系统退信",
            f"<p>您的邮件被退回来了</p><p>收件人 <a>{A}</a> 邮箱不存在</p><p>英文说明:550 User not found: {A}</p>",
            charset="gbk",
            encoding="base64",
        ).replace(b"text/plain", b"text/html"),
    ),
    mail(
        "chinese-full",
        "bounce",
        f"{A} soft",
        plain(
            "postmaster@example.org",
            "邮件投递失败",
            f"您发送给 {A} 的邮件投递失败。\n原因：收件人邮箱已满\n",
            charset="gb2312",
            encoding="base64",
        ),
    ),
    mail(
        "japanese-unknown",
        "bounce",
        f"{A} suppress",
        plain(
            "メール配信システム <postmaster@example.org>".replace(
                "メール配信システム", word("メール配信システム", "iso-2022-jp")
            ),
            "メール配信エラー",
            f"お送りいただいたメールは下記の宛先に配信できませんでした。\n\n  {A}\n  宛先のメールアドレスは存在しません。\n\n",
            charset="iso-2022-jp",
            encoding="7bit",
        ),
    ),
    mail(
        "japanese-full",
        "bounce",
        f"{A} soft",
        plain(
            "postmaster@docomo.example",
            "メールを配信できませんでした",
            f"次の宛先へのメールを配信できませんでした。\n<{A}>\n理由: メールボックスの容量がいっぱいです。\n",
            charset="iso-2022-jp",
            encoding="7bit",
        ),
    ),
    mail(
        "japanese-docomo",
        "bounce",
        f"{A} suppress",
        plain(
            "Mail Administrator <Postmaster@docomo.example>",
            "Mail System Error - Returned Mail",
            f"This Message was undeliverable due to the following reason:\n\nEach of the following recipients was rejected by a remote mail server.\n\n    Recipient: <{A}>\n    Reason:    Unknown user\n",
            encoding="7bit",
        ),
    ),
    mail(
        "japanese-refused",
        "bounce",
        f"{A} hold",
        plain(
            "postmaster@example.org",
            "配信不能のお知らせ",
            f"{A} 宛のメールは受信拒否設定により配信できませんでした。\n",
            charset="iso-2022-jp",
            encoding="base64",
        ),
    ),
    mail(
        "russian-koi8",
        "bounce",
        f"{A} suppress",
        plain(
            "Почтовая система <mailer-daemon@example.org>".replace(
                "Почтовая система", word("Почтовая система", "koi8-r")
            ),
            "Сообщение не доставлено",
            f"Ваше сообщение не может быть доставлено:\n\n{A}\nПользователь не существует.\n",
            charset="koi8-r",
            encoding="quoted-printable",
        ),
    ),
    mail(
        "russian-full",
        "bounce",
        f"{A} soft",
        plain(
            "postmaster@example.org",
            "Сообщение не доставлено",
            f"Не удалось доставить письмо для {A}: почтовый ящик переполнен.\n",
            charset="windows-1251",
        ),
    ),
    mail(
        "russian-spam",
        "bounce",
        f"{A} hold",
        plain(
            "postmaster@example.org",
            "Недоставленное сообщение",
            f"{A}: письмо отклонено как спам\n",
            charset="koi8-r",
            encoding="base64",
        ),
    ),
    mail(
        "german-unknown",
        "bounce",
        f"{A} suppress",
        plain(
            "Mail-Administrator <mailadmin@example.org>",
            "Ihre Nachricht konnte nicht zugestellt werden",
            f"Ihre E-Mail konnte nicht zugestellt werden an:\n\n{A}\n\nDer Empfänger ist unbekannt.\n",
            charset="iso-8859-1",
            encoding="quoted-printable",
        ),
    ),
    mail(
        "german-full",
        "bounce",
        f"{A} soft",
        plain(
            "postmaster@example.org",
            "Zustellfehler",
            f"Die Zustellung an {A} ist fehlgeschlagen: Das Postfach ist voll.\n",
            charset="iso-8859-15",
        ),
    ),
    mail(
        "german-spam",
        "bounce",
        f"{A} hold",
        plain(
            "postmaster@example.org",
            "Nachricht abgelehnt: nicht zugestellt",
            f"Ihre Nachricht an <{A}> wurde nicht zugestellt.\nGrund: Spamverdacht, Ihre Adresse wurde blockiert.\n",
        ),
    ),
    mail(
        "german-delayed",
        "delayed",
        f"{A} retry",
        plain(
            "Mailer-Daemon@example.org",
            "Zustellung verzögert",
            f"Ihre Nachricht an\n\n{A}\n\nkonnte noch nicht zugestellt werden (keine Verbindung). Es wird weiterhin versucht; Sie brauchen nichts zu tun.\n",
        ),
    ),
    mail(
        "french-unknown",
        "bounce",
        f"{A} suppress",
        plain(
            "Administrateur <postmaster@example.org>",
            "Échec de la remise du message",
            f"Votre message n'a pas pu être remis au destinataire suivant :\n\n{A}\n\nCette adresse n'existe pas.\n",
            charset="iso-8859-1",
            encoding="quoted-printable",
        ),
    ),
    mail(
        "french-full",
        "bounce",
        f"{A} soft",
        plain(
            "postmaster@example.org",
            "Message non remis",
            f"{A} : la boîte aux lettres du destinataire est pleine\n",
        ),
    ),
    mail(
        "french-block",
        "bounce",
        f"{A} hold",
        plain(
            "postmaster@example.org",
            "Message non délivré",
            f"Votre message pour {A} a été bloqué par notre politique de sécurité.\n",
        ),
    ),
    mail(
        "french-delayed",
        "delayed",
        f"{A} retry",
        plain(
            "mailer-daemon@example.org",
            "Retard de livraison",
            f"Votre message n'a pas encore été remis à :\n  {A}\nDe nouvelles tentatives seront faites pendant 3 jours.\n",
        ),
    ),
    mail(
        "spanish-unknown",
        "bounce",
        f"{A} suppress",
        plain(
            "Administrador del correo <postmaster@example.org>",
            "Error en la entrega del mensaje",
            f"No se ha podido entregar su mensaje a:\n\n{A}\n\nMotivo: el usuario no existe.\n",
            charset="iso-8859-1",
        ),
    ),
    mail(
        "spanish-full",
        "bounce",
        f"{A} soft",
        plain(
            "postmaster@example.org",
            "Mensaje no entregado",
            f"No se pudo entregar a {A}: el buzón está lleno (cuota superada).\n",
        ),
    ),
    mail(
        "spanish-spam",
        "bounce",
        f"{A} hold",
        plain(
            "postmaster@example.org",
            "Mensaje rechazado",
            f"El mensaje para {A} no se pudo entregar porque fue considerado correo no deseado.\n",
        ),
    ),
    mail(
        "portuguese-unknown",
        "bounce",
        f"{A} suppress",
        plain(
            "postmaster@example.org",
            "Falha na entrega da mensagem",
            f"A sua mensagem não pôde ser entregue a:\n\n{A}\n\nO usuário não existe.\n",
            encoding="quoted-printable",
        ),
    ),
    mail(
        "portuguese-full",
        "bounce",
        f"{A} soft",
        plain("mailer-daemon@example.org", "Mensagem devolvida ao remetente", f"<{A}>: caixa postal cheia\n"),
    ),
    mail(
        "italian-unknown",
        "bounce",
        f"{A} suppress",
        plain(
            "postmaster@example.org",
            "Mancata consegna del messaggio",
            f"Non è stato possibile consegnare il messaggio a:\n\n{A}\n\nIndirizzo inesistente.\n",
        ),
    ),
    mail(
        "italian-full",
        "bounce",
        f"{A} soft",
        plain(
            "postmaster@example.org",
            "Impossibile recapitare il messaggio",
            f"{A}: la casella del destinatario è piena.\n",
        ),
    ),
    mail(
        "italian-delayed",
        "delayed",
        f"{A} retry",
        plain(
            "mailer-daemon@example.org",
            "Messaggio in ritardo: consegna non riuscita finora",
            f"Il messaggio per {A} non è ancora stato consegnato; seguiranno ulteriori tentativi.\n",
        ),
    ),
    mail(
        "dutch-unknown",
        "bounce",
        f"{A} suppress",
        plain(
            "postmaster@example.org",
            "Onbestelbaar: Lente",
            f"Uw bericht kon niet worden bezorgd bij:\n\n{A}\n\nDit adres bestaat niet.\n",
        ),
    ),
    mail(
        "polish-unknown",
        "bounce",
        f"{A} suppress",
        plain(
            "postmaster@example.org",
            "Nie można dostarczyć wiadomości",
            f"Wiadomość do {A} nie została dostarczona: użytkownik nie istnieje.\n",
        ),
    ),
    mail(
        "korean-full",
        "bounce",
        f"{A} soft",
        plain(
            "postmaster@example.org",
            "메일 전송 실패",
            f"{A} 님에게 메일을 전송하지 못했습니다. 사서함 용량이 가득 찼습니다.\n",
            charset="euc-kr",
            encoding="base64",
        ),
    ),
    mail(
        "address-in-running-text",
        "bounce",
        f"{A} suppress",
        plain(
            "Campus Mailserver <MAILER-DAEMON@example.org>",
            f"Your message to {A} could not be delivered.",
            f"Hello,\n\nthis is the email server at Campus.\n\nYour message to {A} has reached our server, but this email address is wrong or no longer valid.\n\nYour message has NOT been delivered.\n",
        ),
    ),
    mail(
        "address-only-in-original",
        "bounce",
        f"{A} suppress",
        multi(
            DAEMON,
            "Mail delivery failed",
            text("The message you sent could not be delivered: user unknown."),
            returned(A),
            kind="mixed",
        ),
    ),
    mail(
        "person-like-sender",
        "bounce",
        f"{A} suppress",
        plain(
            "admin@example.org",
            "Delivery Failure",
            f"Could not deliver message to the following recipient(s):\n\nFailed Recipient: {A}\nReason: Remote host said: 550 5.1.1 unknown user\n\n   -- The header and top 20 lines of the message follows --\n\n{original(A)}",
        ),
    ),
    mail(
        "code-in-brackets",
        "bounce",
        f"{A} suppress",
        plain(DAEMON, "Undeliverable", f"<{A}>: mailbox not available [550 5.1.1 no mailbox]\n"),
    ),
    mail(
        "relaying-denied",
        "bounce",
        f"{A} hold",
        plain(DAEMON, "Undelivered mail", f"<{A}>: 550 5.7.1 Relaying denied\n"),
    ),
    mail(
        "loop",
        "bounce",
        f"{A} hold",
        plain(
            DAEMON,
            "Returned mail: Too many hops 26 (25 max)",
            f"   ----- The following addresses had permanent fatal errors -----\n{A}\n\n   ----- Transcript of session follows -----\n554 5.4.6 Too many hops 26 (25 max)\n",
        ),
    ),
    mail(
        "virus",
        "bounce",
        f"{A} hold",
        plain(
            "postmaster@example.org",
            "Message rejected",
            f"Your message to {A} was rejected because it contains a virus: 550 5.7.1 malware found\n",
        ),
    ),
    mail(
        "soft-text-5xx",
        "bounce",
        f"{A} soft",
        plain(
            DAEMON,
            "failure notice",
            f"Sorry, unable to deliver your message to {A} for\nthe following reason:\n\n 552 Quota violation for {A}\n\nA copy of the original message below this line:\n\n{original(A)}",
        ),
    ),
    mail(
        "not-collected",
        "bounce",
        f"{A} soft",
        plain(
            DAEMON,
            "Mail delivery failure",
            f"A message that you sent could not be delivered\nto all of its recipients.\n\nThe following message, addressed to '{A}',\nfailed because the mailbox is over its quota\n\n---- START OF RETURNED MESSAGE ----\n{original(A)}",
        ),
    ),
    mail(
        "postponed",
        "delayed",
        f"{A} retry",
        plain(
            POST,
            "Mail Delivery Warning",
            f'This is an advisory-only email.  Please do not reply to it.\nDelivery of email to this address\n"{A}"\nhas been postponed due to a full mailbox.\nWe will continue to try to deliver your message over the next few days.\n',
        ),
    ),
    mail(
        "generated-from",
        "bounce",
        f"{A} suppress",
        plain(
            DAEMON,
            "Mail delivery failed: returning message to sender",
            f"A message that you sent could not be delivered to one or more of its\nrecipients. This is a permanent error. The following address(es) failed:\n\n  an undisclosed address\n    (generated from {A})\n    550 5.1.1 user unknown\n\n------ This is a copy of the message, including all the headers. ------\n\n{original(A)}",
        ),
    ),
    mail(
        "null-path-plain-words",
        "bounce",
        f"{A} suppress",
        plain(
            "Campus <noc@example.org>",
            "Returned mail",
            f"This address does not exist here:\n{A}\n550 5.1.1\n",
            "Return-Path: <>\n",
        ),
    ),
]

COMPLAINTS = [
    mail(
        "arf-abuse",
        "complaint",
        f"{A} complaint",
        arf("abuse", f"Original-Rcpt-To: {A}\nSource-IP: 192.0.2.25\n"),
    ),
    mail("arf-fraud", "complaint", f"{A} complaint", arf("fraud", f"Original-Rcpt-To: <{A}>\n")),
    mail("arf-not-spam", "none", f"{A} none", arf("not-spam", f"Original-Rcpt-To: {A}\n")),
    mail("arf-opt-out", "unsubscribe", f"{A} unsubscribe", arf("opt-out", f"Original-Rcpt-To: {A}\n")),
    mail("arf-removal", "unsubscribe", f"{A} unsubscribe", arf("opt-out-list", f"Removal-Recipient: {A}\n")),
    mail(
        "arf-auth-failure",
        "none",
        f"{A} none",
        arf(
            "auth-failure",
            f"Original-Rcpt-To: {A}\nAuth-Failure: dmarc\nReported-Domain: shop.example\nDelivery-Result: reject\n",
        ),
    ),
    mail("arf-virus", "none", f"{A} none", arf("virus", f"Original-Rcpt-To: {A}\n")),
    mail(
        "arf-cfbl",
        "complaint",
        f"{A} complaint",
        arf(
            "abuse",
            f"Original-Rcpt-To: {A}\n",
            f"CFBL-Address: fbl@bounce.shop.example; report=arf\nCFBL-Feedback-ID: {OURS.partition('@')[0]}\n",
        ),
    ),
    mail(
        "arf-base64",
        "complaint",
        f"{A} complaint",
        multi(
            "fbl@fbl.example.org",
            "complaint",
            text("abuse"),
            body(
                f"Feedback-Type: abuse\nVersion: 0.1\nOriginal-Rcpt-To: {A}\n", kind="message/feedback-report"
            ),
            returned(A),
            kind="report; report-type=feedback-report",
        ),
    ),
]

LEAVE = [
    mail(
        f"leave-{number}",
        "unsubscribe",
        f"{A} unsubscribe",
        plain(f"Anna <{A}>", subject, said, charset=charset, encoding="base64" if charset else "8bit"),
    )
    for number, (subject, said, charset) in enumerate(
        [
            ("unsubscribe", "", ""),
            ("Unsubscribe me please", "Thanks", ""),
            ("Re: Spring news", "STOP\n\nOn Mon, Jun 2, 2025 Shop wrote:\n> Hello", ""),
            ("Re: Spring news", "Please unsubscribe me.\n\nAnna", ""),
            ("Abmelden", "", ""),
            ("AW: Frühling", "Bitte abmelden\n\nAm 02.06.2025 schrieb Shop:\n> Hallo", ""),
            ("AW: Frühling", "Keine weiteren Mails!", "iso-8859-1"),
            ("RE: Printemps", "désabonner\n", "iso-8859-1"),
            ("RE: Printemps", "Désinscription s'il vous plaît", ""),
            ("RE: Noticias", "Dar de baja", ""),
            ("RE: Noticias", "BAJA\n", ""),
            ("RES: Novidades", "Descadastrar", ""),
            ("R: Novità", "Cancellami\n\nInviato da iPhone", ""),
            ("Re: Весна", "Отписаться", "koi8-r"),
            ("Re: 春", "配信停止", "iso-2022-jp"),
            ("回复: 春", "退订", "gb2312"),
            ("Re: Spring news", "remove me from your list\n-- \nAnna Muster", ""),
            ("Re: Spring news", "opt-out", ""),
        ]
    )
] + [
    mail(
        "leave-token",
        "unsubscribe",
        f"{A} unsubscribe",
        f"From: {A}\nTo: u-00112233445566778899aabbccddeeff00050011223344556677@bounce.shop.example\nSubject: (no subject)\n\n",
    )
]

AWAY = [
    mail(
        f"away-{number}",
        "auto_reply",
        "",
        plain(sender, subject, said, extra, charset, "base64" if charset else "8bit"),
    )
    for number, (sender, subject, said, extra, charset) in enumerate(
        [
            (
                A,
                "Automatic reply: Spring news",
                "I am out of the office and cannot be reached until Monday.",
                "Auto-Submitted: auto-replied\nReturn-Path: <>\n",
                "",
            ),
            (
                A,
                "Out of Office: Spring news",
                "Back on Monday. For urgent matters write to bob@example.com.",
                "",
                "",
            ),
            (
                A,
                "Abwesenheitsnotiz: Frühling",
                "Ich bin nicht im Haus. Ihre Nachricht wird nicht weitergeleitet.",
                "X-Autoreply: yes\n",
                "iso-8859-1",
            ),
            (
                A,
                "Automatische Antwort: Frühling",
                "Ich bin nicht erreichbar. Vertretung: bob@example.com",
                "",
                "",
            ),
            (A, "Réponse automatique : Printemps", "Je suis absente.", "", ""),
            (A, "Absence du bureau : Printemps", "De retour lundi", "", "iso-8859-1"),
            (A, "Respuesta automática: Noticias", "Estoy fuera de la oficina.", "", ""),
            (A, "Resposta automática: Novidades", "Estou de férias.", "", ""),
            (A, "Risposta automatica: Novità", "Sono in ferie.", "", ""),
            (A, "Автоответ: Весна", "Я в отпуске.", "", "koi8-r"),
            (A, "自動返信: 春", "ただいま不在にしております。", "", "iso-2022-jp"),
            (A, "自动回复: 春季", "您好，我正在休假。", "", "gb2312"),
            (
                A,
                "Re: Spring news",
                "I no longer work here; this mailbox does not exist any more. 550",
                "Auto-Submitted: auto-replied\nReturn-Path: <>\n",
                "",
            ),
            (A, "Spring news", "vacation", "Precedence: auto_reply\n", ""),
            (
                "helpdesk@example.org",
                "Ticket received: Spring news [#1234]",
                "We have received your request.",
                "Auto-Submitted: auto-generated\n",
                "",
            ),
            (
                "Anna <anna@example.org>",
                "Please confirm your message",
                "To complete the delivery of your message, please reply: this verifies that you are a human and not spam.",
                "",
                "",
            ),
            (
                "Anna via Boxbe <guard@boxbe.example>",
                "Spring news (Action Required)",
                "Hello, your message about Spring news was waitlisted. Please click to add yourself to Anna's Guest List so it will be delivered. Boxbe",
                "Auto-Submitted: auto-replied\nPrecedence: bulk\n",
                "",
            ),
            (
                "anna@example.org",
                "Your email requires verification verify#AbC12",
                "The message you sent requires that you verify that you are a real live human being and not a spam source.",
                "X-Failed: no\n",
                "",
            ),
            (
                A,
                "Automatic reply: Undeliverable parcels and what to do",
                "Away until Monday",
                "Auto-Submitted: auto-replied\n",
                "",
            ),
        ]
    )
] + [
    mail(
        "read-receipt",
        "auto_reply",
        "",
        multi(
            f"Anna <{A}>",
            "Read: Spring news",
            text("Your message was read."),
            f"Content-Type: message/disposition-notification\n\nReporting-UA: mail\nFinal-Recipient: rfc822;{A}\nDisposition: manual-action/MDN-sent-manually; displayed\n",
            kind="report; report-type=disposition-notification",
        ),
    )
]

_DSN = postfix(A, "5.1.1", "550 5.1.1 unknown user")
_NEWS = "List-Id: Shop <news.shop.example>\nList-Unsubscribe: <https://shop.example/u>\nPrecedence: bulk\n"
ORDINARY = [
    mail("person-answers", "none", "", plain(f"Anna <{A}>", "Re: Spring news", "Thanks, do you have it in blue? My order is 550 days old.", "In-Reply-To: <x@shop.example>\n")),
    mail("person-asks-about-delivery", "none", "", plain(f"Anna <{A}>", "Delivery problem", "Hello,\nthe parcel could not be delivered to my address. Please write to anna@example.org.\nAnna")),
    mail("person-stops-work", "none", "", plain(f"Anna <{A}>", "Re: Spring news", "Stop by our shop some time, we would like to show you what we made of it, and then we can talk about the unsubscribe link that does not work for my colleague in the other office.")),
    mail("newsletter-undeliverable", "none", "", plain("Mail Weekly <editor@weekly.example>", "Why your mail is undeliverable: reading delivery status notifications", "Dear reader,\n550 5.1.1 user unknown is what you see.\nFor example:\n<bob@example.com>: 550 5.1.1 User unknown\n", _NEWS)),
    mail("newsletter-no-list-header", "none", "", plain("Mail Weekly <editor@weekly.example>", "Mail delivery failed? Five tips", "Hello,\nwhen a message could not be delivered, you see 550 5.1.1. Write to tips@weekly.example.\n")),
    mail("invoice", "none", "", plain("billing@hoster.example", "Invoice 550 - payment failed", "Your payment could not be processed. Customer: anna@example.org. Amount 550 EUR.")),
    mail("parcel", "none", "", plain("Parcel Service <no-reply@parcel.example>", "Delivery failed: your parcel 552-118", "We could not deliver your parcel.\nE-Mail: anna@example.org\nPlease choose a new date.")),
    mail("parcel-de", "none", "", plain("Paketdienst <noreply@paket.example>", "Zustellung nicht möglich: Ihr Paket", "Ihr Paket konnte nicht zugestellt werden. Empfänger: anna@example.org")),
    mail("forwarded-inline", "none", "", plain(f"Bob <{B}>", "Fwd: Undelivered Mail Returned to Sender", f"Can you look at this?\n\n---------- Forwarded message ----------\nFrom: MAILER-DAEMON@mx.example.net\n\n<{A}>: 550 5.1.1 user unknown\n")),
    mail("forwarded-attached", "none", "", multi(f"Bob <{B}>", "FW: Undeliverable: Spring news", text("What is this?"), b"Content-Type: message/rfc822\n\n" + _DSN.replace(b"=_ab/12.34", b"=_in"), kind="mixed").replace(b"Return-Path: <>\n", b"")),
    mail("forwarded-own-subject", "none", "", multi(f"Bob <{B}>", "bounce problem", text("Hi, our mails are undeliverable, see attached."), b"Content-Type: message/rfc822\n\n" + _DSN.replace(b"=_ab/12.34", b"=_in"), kind="mixed").replace(b"Return-Path: <>\n", b"")),
    mail("forwarded-details", "none", "", multi(f"Bob <{B}>", "Mail to Anna", text("The attached report came back. What does it mean?"), status(who(A, "5.1.1", "smtp; 550 5.1.1 unknown")), kind="mixed").replace(b"Return-Path: <>\n", b"")),
    mail("list-post-quotes-bounce", "none", "", plain(f"Bob <{B}>", "[postfix-users] Undelivered Mail Returned to Sender - why?", f"Hi all,\n\nI get this:\n> <{A}>: host mx said: 550 5.1.1 user unknown (in reply to RCPT TO command)\n\nThis is the mail system at host x.\n", "List-Id: <postfix-users.example>\nPrecedence: list\n")),
    mail("question-quotes-bounce", "none", "", plain(f"Bob <{B}>", "mail delivery failed - help", f"Hello,\n\nwhen I write to you I get:\n\n<{A}>: 550 5.1.1 user unknown\n\nCould you look?\nBob")),
    mail("quarantine-digest", "none", "", plain("Postmaster <postmaster@example.org>", "Quarantine summary: 3 messages not delivered", "The following messages were not delivered to your mailbox:\n  spammer@bad.example  Cheap pills\n  other@bad.example   You won\n")),
    mail("dmarc-report", "none", "", plain("noreply-dmarc-support@google.example", "Report domain: shop.example Submitter: google.example Report-ID: 1", "aggregate report attached")),
    mail("maintenance", "none", "", plain("Postmaster <postmaster@example.org>", "Planned maintenance on Sunday", "Mail will be slow on Sunday. Write to it@example.org if you have questions.")),
    mail("password", "none", "", plain("noreply@service.example", "Reset your password", "Somebody asked to reset the password of anna@example.org.")),
    mail("german-news", "none", "", plain("Shop <news@laden.example>", "Eine Nachricht für Sie", "Unsere Frühlingsliste ist da. Fragen: hilfe@laden.example", "")),
    mail("german-person", "none", "", plain(f"Anna <{A}>", "AW: Ihre Nachricht", "Vielen Dank, das passt gut. Ich war nicht zu erreichen.")),
    mail("spanish-person", "none", "", plain(f"Ana <{A}>", "RE: Noticias", "Gracias. ¿Cuándo será la entrega del pedido? No pude abrir el enlace.")),
    mail("japanese-person", "none", "", plain(f"Anna <{A}>", "Re: 春のお知らせ", "ありがとうございます。注文したいのですが、ページが見つかりません。", charset="iso-2022-jp", encoding="7bit")),
    mail("empty", "none", "", b""),
    mail("no-headers", "none", "", b"just some bytes\n\nand more\n"),
    mail("calendar", "none", "", plain(f"Bob <{B}>", "Invitation: failure review @ Mon 9am", "You have been invited. The following recipients: anna@example.org", "")),
]  # fmt: skip

CORPUS: list[Mail] = [*STANDARD, *REPORTS, *WORDS, *COMPLAINTS, *LEAVE, *AWAY, *ORDINARY]

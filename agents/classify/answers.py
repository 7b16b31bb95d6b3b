"""What is neither a report nor a complaint: automatic answers (RFC 3834), people who answer or leave, the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from agents.classify import arf
from agents.classify.mime import Fields, Part, unworded

Kind = Literal["dsn", "arf", "auto_reply", "unsubscribe", "reply", "other"]

_AUTO_SUBJECT = re.compile(
    r"^\W{0,6}(?:(?:re|aw|sv|antw|fwd?|rv|res|r)\s*:\s*)?(?:auto(?:matic|mated|matische|matisk|m[áa]tica|matico|maattinen)?[ -]?(?:reply|response|antwort|answer|svar|odpowied|re\b|:)|out of (?:the )?office|out-of-office|"
    r"abwesen|automati(?:sche|sch|c)\b|r[ée]ponse (?:automatique|d'absence)|message d'absence|absence|absent|respuesta autom|respuesta de ausencia|mensaje de ausencia|resposta autom|aus[êe]ncia|risposta automatica|assenza|fuori (?:sede|ufficio)|"
    r"afwezig|poza biurem|autoodpowied|mimo kancel|ooo\b|on vacation|on holiday|on leave|vacation|holiday|urlaub|en vacances|de vacaciones|f[ée]rias|in ferie|fuera de (?:la )?oficina|ausente|away from|i am away|away\b|"
    r"автоответ|автоматическ|нет на месте|в отпуске|отсутств|自動(?:返信|応答|回答)|不在|休暇|自动(?:回复|答复)|自動回覆|外出|休假|부재중|자동 ?(?:회신|응답)|ticket (?:received|created|#)|we (?:have )?received your|"
    r"thank you for (?:contacting|your (?:e-?mail|message|inquiry))|(?:please )?confirm (?:your )?(?:message|e-?mail|delivery|that you)|verify#|your (?:e-?mail|message)[^:]{0,40}(?:requires|needs|awaits|awaiting|held|waiting)[^:]{0,30}|"
    r"challenge|sender verification|action required: verify|please verify)",
    re.IGNORECASE,
)
_CHALLENGE = re.compile(
    r"(?:to (?:complete|confirm|verify|release|deliver)|please (?:click|reply|confirm|verify))[^.]{0,160}(?:verif|human|person|not (?:a )?spam|whitelist|guest list|approved senders?|deliver(?:ed)? (?:your|to))|boxbe|spamarrest|tmda|challenge[- ]response|"
    r"(?:anti-?spam|spam)[^.]{0,60}(?:confirm|best[äa]tig|confirme|conferm)",
    re.IGNORECASE,
)
_MAILTO_TOKEN = re.compile(r"(?<![\w.+-])u-[0-9a-f]{52}@", re.IGNORECASE)

_LEAVE = (
    r"unsubscribe(?: me)?(?: please| from (?:this|the|your|all)[\w ]{0,30})?|(?:please )?(?:unsubscribe|remove)(?: me| us| my (?:e-?mail|address))?(?: from (?:this|the|your|all)[\w ]{0,30})?|"
    r"stop(?: (?:it|this|all|sending|mailing|e-?mail(?:s|ing)?|me|these|those|please|the|messages?|newsletters?)){0,5}|opt[ -]?out|take me off(?: (?:this|your|the) (?:mailing )?list)?|no more (?:e-?mails?|mails?)|cancel(?: (?:my )?subscription)?|leave|"
    r"(?:bitte )?(?:abmelden|abbestellen|austragen|newsletter (?:abmelden|abbestellen|stornieren)|(?:mich )?(?:bitte )?(?:abmelden|austragen)|keine (?:weiteren )?(?:e-?mails?|mails|newsletter)(?: mehr)?|stopp)|"
    r"(?:me )?(?:d[ée]sabonner|d[ée]sabonnement|d[ée]sinscrire|d[ée]sinscription|d[ée]sabonnez[- ]moi|d[ée]sinscrivez[- ]moi|arr[êe]t(?:er|ez)?|stop pub|ne plus recevoir[\w ]{0,30})|"
    r"(?:darme |deseo )?(?:dar(?:me)? de baja|baja|cancelar(?: (?:la )?suscripci[óo]n)?|desuscribir(?:me)?|no (?:m[áa]s|enviar m[áa]s) correos?|eliminar(?:me)?)|"
    r"(?:quero )?(?:descadastrar|cancelar (?:a )?(?:inscri[çc][ãa]o|assinatura)|remover|sair da lista|n[ãa]o (?:quero )?receber mais[\w -]{0,20}|parar?)|"
    r"(?:voglio )?(?:disiscri(?:vere|vimi|vermi|zione)|cancella(?:mi|re|zione)?(?: iscrizione)?|rimuov(?:i|ere|imi)|non (?:voglio )?(?:ricevere )?pi[ùu][\w -]{0,20}|annulla iscrizione)|"
    r"afmelden|uitschrijven|wypisz(?: mnie)?|rezygnuj[ęe]|odhl[áa]sit|avregistrera|afmeld|avmeld|peruuta(?: tilaus)?|leiratkoz[áa]s|abonelikten [çc][ıi]k|"
    r"отписат(?:ь|ься)(?: от рассылки)?|отпиши(?:те)?(?: меня)?(?: от рассылки)?|стоп|удалите(?: меня)?[\w ]{0,20}|не присылайте[\w ]{0,20}|"
    r"配信停止(?:希望|してください|をお願いします)?|配信解除|購読(?:解除|停止)|登録(?:解除|削除)|退会|解除|停止|退订|取消订阅|退訂|取消訂閱|不要再发[\w]{0,6}|수신 ?거부|구독 ?(?:취소|해지)"
)
_LEAVING = re.compile(
    rf"^\W{{0,6}}(?:please,? |pls |bitte,? |por favor,? |merci de (?:me )?|per favore,? |пожалуйста,? |s'il vous pla[îi]t,? )?(?:{_LEAVE})(?: (?:please|bitte|danke|thanks?|thank you|merci|gracias|grazie|obrigad[oa]|спасибо|s'il vous pla[îi]t|por favor|per favore))?[\W_]{{0,12}}$",
    re.IGNORECASE,
)
_QUOTE = re.compile(
    r"^\s{0,3}(?:>|-{2,}\s?(?:original|urspr|message d'origine|mensaje original|messaggio originale|mensagem original|исходное|原)|_{5,}|(?:on|am|le|el|il|em|op|dnia|den)\b.{4,160}(?:wrote|schrieb|[ée]crit|escribi[óo]|scritto|escreveu|schreef|napisa[łl]|skrev)\s?:?\s*$|(?:from|von|de|da|от|差出人|发件人)\s?[:：]\s.{0,120}@|sent from my|von meinem|envoy[ée] de(?:puis)? mon|enviado desde mi|inviato da|-- $|.{0,80}(?:пишет|писал\(?а?\)?)\s?:\s*$)",
    re.IGNORECASE,
)


def kind_of_answer(headers: Fields, found: Sequence[Part], text: str) -> Kind:
    """What a mail that is no report is."""
    if any(part.kind == "message/disposition-notification" for part in found):
        return "auto_reply"  # RFC 8098: read or deleted, by whatever; says nothing of the address
    subject = unworded(headers["subject"][:500])
    if _MAILTO_TOKEN.search(headers["to"][:500]):
        return "unsubscribe"
    submitted = headers["auto-submitted"].lower()
    precedence = headers["precedence"].lower()
    if (
        (submitted and not submitted.startswith("no"))
        or any(name in headers for name in _AUTO_HEADERS)
        or precedence in ("auto_reply", "auto-reply")
        or (headers["x-auto-response-suppress"].lower() == "all" and _AUTO_SUBJECT.match(subject))
        or _AUTO_SUBJECT.match(subject)
    ):
        return "auto_reply"
    if precedence in ("bulk", "list", "junk") or "list-id" in headers or "list-unsubscribe" in headers:
        return "auto_reply" if _CHALLENGE.search(text[:1500]) else "other"
    if _LEAVING.match(subject[:200]) or _LEAVING.match(written(text)):
        return "unsubscribe"
    if _CHALLENGE.search(text[:1500]):
        return "auto_reply"
    return "reply" if arf.mailbox(headers["from"]) else "other"


_AUTO_HEADERS = (
    "x-autoreply",
    "x-autorespond",
    "x-auto-reply-from",
    "x-autoresponder",
    "x-auto-reply",
    "x-mail-autoreply",
    "x-vacation",
    "x-ebay-mailtracker-auto",
)


def written(text: str) -> str:
    """What somebody wrote above the mail that they quote, if it is as short as a command; else empty."""
    said: list[str] = []
    for line in text[:3000].splitlines()[:40]:
        if _QUOTE.match(line):
            break
        if line.strip():
            said.append(" ".join(line.split()))
        if len(said) == 4:
            break
    # A name below it is a signature, not more of the sentence.
    return said[0][:120] if said and len(said) <= 3 and sum(map(len, said)) <= 160 else ""

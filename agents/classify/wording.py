"""What mail systems write into their bounces, in the languages met in practice: data for ``bounces``.

Patterns are matched on lower-case text. A phrase gives a status only where no host gave one: the order is
from what must never cost anybody their address (blocks, policy) to what may (unknown users).
"""

from __future__ import annotations

import re

SUBJECT = re.compile(
    # English
    r"undeliver|non.?deliver|delivery (?:status|fail|report|prob|error|notif|has failed|was not|incomplete|delay|unsuccess)|"
    r"(?:mail|message|e-?mail)[\w ]{0,20}deliver\w*[\w ]{0,12}(?:fail|prob|error|delay|report|status|unsuccess)|"
    r"fail(?:ure|ed)[\w ]{0,12} (?:notice|notification|mail|message|deliver)|(?:mail|message|send|recipient)\w* (?:has |have )?fail(?:ure|ed)|"
    r"failure (?:notice|deliver|to)|fail(?:ed|ure)? to deliver|permanent (?:delivery )?(?:fail|error)|"
    r"returned (?:mail|e-?mail|message|to sender)|return(?:ing)? to sender|mail (?:could not|system error|error|failed|rejected)|"
    r"message (?:you sent )?(?:could not|cannot|can't|status|delay|rejected|not sent|bounced)|"
    r"(?:not|couldn'?t|could not|cannot|can ?not|can'?t|unable to) (?:be )?(?:deliver|sent)|wasn'?t delivered|rejected (?:mail|message|e-?mail)|"
    r"bounced?(?: |-)?(?:mail|message|notif)|bounce action|warning: (?:message|could|[^ ]+@|e-?mail)|user unknown|unknown user|"
    r"no such (?:user|address)|mailbox (?:full|is full|unavail)|over quota|"
    r"address (?:not found|rejected|unknown)|automatically rejected mail|mail delivery (?:sub)?system|postmaster notif|deferred mail|delayed mail|delivery (?:warning|delay)|(?:mail|message) (?:is )?delayed|"
    r"nachricht|"  # narrowed by _GERMAN below
    r"unzustellbar|nicht (?:zugestellt|zustellbar|ausgeliefert|[üu]bermittelt)|zustellung\w*[\w ]{0,20}(?:fehl|problem|nicht|verz[öo]g|unm[öo]g)|"
    r"(?:zustell|unzustell)\w*(?:fehler|problem|bericht|benachrichtigung|status)|fehler bei der zustellung|empf[äa]nger unbekannt|"
    # French
    r"non remis|non d[ée]livr|non distribu|non livr|(?:[ée]chec|erreur|retard|notification)[\w' ]{0,30}(?:remise|livraison|distribution|envoi|acheminement|d[ée]livrance)|"
    r"impossible de (?:remettre|distribuer|livrer|d[ée]livrer|transmettre)|"
    r"utilisateur (?:non recens|inconnu)|adresse (?:inconnue|introuvable)|retour [àa] l'exp|message non (?:parvenu|achemin|transmis)|"
    # Spanish, Portuguese, Italian
    r"no se (?:puede|pudo|ha podido|pudo ser|pudieron)? ?(?:ser )?entreg|no entregad|(?:fallo|error|problema|retraso|notificaci[óo]n)[\w ]{0,25}(?:entrega|env[íi]o)|"
    r"imposible (?:entregar|de entregar)|correo devuelto|mensaje (?:devuelto|rechazado|no entreg)|devuelto al remitente|estado de (?:la )?entrega|"
    r"n[ãa]o (?:p[ôo]de ser |foi |foi poss[íi]vel )?entreg|(?:falha|erro|atraso|notifica[çc][ãa]o)[\w ]{0,30}(?:entrega|envio)|mensagem devolvida|devolvida ao remetente|"
    r"(?:mancata|impossibile|errore|fallita|problema|notifica)[\w' ]{0,25}(?:consegna|recapit|invio)|non (?:recapitat|consegnat|recapitabil)|messaggio (?:respinto|non)|restituito al mittente|"
    # Dutch, Nordic, Polish, Czech, Turkish, Hungarian
    r"onbestelbaar|niet (?:bezorgd|afgeleverd|bestelbaar)|aflevering mislukt|kunde inte levereras|ikke (?:leveret|levert)|levering mislyk|olevererbart|toimit\w+ (?:ep[äa]onn|virhe)|"
    r"nie (?:mo[żz]na|uda[łl]o|dostarcz)|niedostarcz|zwrot (?:poczty|wiadomo)|nedoru[čc]|teslim edileme|iletileme|k[ée]zbes[íi]t|"
    # Russian, Ukrainian, Japanese, Chinese, Korean
    r"не ?(?:было |может быть )?доставл|недостав|не удалось доставить|ошибка (?:при )?достав|о доставке|(?:сбой|отказ)[\w ]{0,12}достав|возврат (?:письма|сообщения)|"
    r"配信(?:不能|でき|に失敗|エラー|失敗)|配達(?:不能|でき|エラー)|送信(?:でき|エラー|に失敗|不能)|届きません|エラーメール|宛先不明|お届けでき|未達|メール配信状況|"
    r"退信|投递失败|无法(?:投递|送达|发送|传递)|发送失败|未(?:能)?送达|退回|無法(?:傳遞|遞送|送達|投遞)|傳遞失敗|投遞失敗|递送失败|传递失败|发信失败|배달(?:되지|할 수|실패| 실패)|전송 ?실패|반송",
)
_GERMAN = re.compile(
    r"nachricht.{0,60}(?:nicht|fehl|zur[üu]ck|verz[öo]ger)|(?:fehl|r[üu]ck|nicht).{0,40}nachricht",
    re.S,
)

OPENING = re.compile(
    r"(?:could|can|was|were|has|have|did|is|been)(?: ?not|n'?t)(?: been| be| yet been)?(?: \w+){0,3}? ?(?:deliver|reach|be sent|accepted|relayed)|unable to (?:deliver|send|relay|be deliver)|undeliver|"
    r"delivery (?:to|of|for)\b[^.]{0,120}?(?:fail|not|delay|unsuccess|reject)|delivery (?:has )?(?:failed|failure|status notification|report|attempts?)|fail(?:ed|ure) (?:to deliver|addresses|recipient|delivery)|"
    r"fatal errors?|permanent (?:fatal )?error|permanently (?:failed|rejected)|(?:was|been) (?:rejected|returned|refused|bounced|automatically rejected|deferred|delayed)|"
    r"returned (?:to (?:you|sender)|mail|because)|following (?:addresses|recipients?|address|users?|destination)|no such (?:user|mailbox|address)|user unknown|unknown (?:user|recipient|address)|"
    r"non-?delivery|qmail-send|this is the (?:mail system|deliver program)|mail system error|delivery problem|rcpt to|transcript of session|does(?: not|n'?t) exist|mailbox (?:is )?(?:full|unavailable|not found)|"
    r"nicht (?:\w+ ){0,3}?(?:zugestellt|zustellen|zustellbar|ausgeliefert|[üu]bermittelt|gesendet|erreich)|unzustellbar|konnte(?:n)? nicht|zustellung (?:\w+ ){0,6}?(?:fehl|nicht|verz)|"
    r"n'a (?:pas )?(?:pas )?(?:pu|[ée]t[ée])|n'ont (?:pas )?pu|non (?:remis|distribu|livr)|[ée]chec (?:de|d')|impossible (?:de|d')|n'existe pas|"
    r"no (?:se )?(?:ha )?(?:pudo|puede|podido|sido posible|fue posible|fue entregado|existe)|no se (?:ha )?(?:entreg|pud)|error (?:de|en la|al) entreg|"
    r"n[ãa]o (?:foi|p[ôo]de|pode|existe)|falha (?:na|ao|de) (?:entrega|entregar)|"
    r"non (?:è|e'|e|[èe] stato|ha potuto|pu[òo]|esiste)(?: stato)?(?: possibile)?|impossibile (?:consegnare|recapitare|inviare)|mancata consegna|"
    r"niet (?:\w+ ){0,3}?(?:bezorgd|afgeleverd|worden)|nie (?:mo[żz]na|zosta|uda|istnieje|mog)|kunde inte|ikke (?:leveres|leveret|levert)|nebyla? doru|teslim edil|iletileme|"
    r"не (?:может|могло|удалось|было|был|доставлен|существует)|недоставл|невозможно доставить|"
    r"配信でき|送信でき|配達でき|届けられ|届きません|お届けでき|見つかりません|存在しません|受信(?:でき|拒否)|エラー|配信不能|"
    r"无法(?:投递|送达|发送|传递|到达)|不能(?:投递|送达|发送)|未能|被退回|退信|投递失败|不存在|拒绝|發送失敗|無法|배달|전송(?:하지|되지|할 수|실패)",
)

DELAYED = re.compile(
    r"will (?:keep|continue|be retried|try|retry|be attempted)|still (?:trying|being retried|undelivered|attempt)|not yet (?:been )?delivered|hasn'?t been delivered yet|has not (?:yet )?been (?:delivered )?(?:yet|after)|"
    r"(?:you )?do not need to (?:resend|do anything|re-?send)|don'?t need to (?:resend|do)|warning message only|warning only|temporar(?:y|ily) (?:delay|problem|failure|error)|delivery (?:is|has been|was) delayed|message (?:is |has been |was )?delayed|"
    r"delayed(?: mail)?\b|delivery attempts will|further attempts|no action is required|"
    r"wird (?:weiter(?:hin)?|erneut)|weitere(?:n)? (?:zustell)?versuche|verz[öo]ger|noch nicht zugestellt|sie brauchen|m[üu]ssen (?:sie )?nichts|"
    r"retard|tentatives? (?:se )?(?:poursuiv|continu)|nouvelles? tentatives?|sera (?:nouveau|retent)|n'a pas encore|continuera|"
    r"retras|seguir[áa] intentando|se (?:seguir[áa]|volver[áa])|reintent|todav[íi]a no|a[úu]n no|"
    r"atrasad|atraso|continuar[áa] tentando|novas? tentativas?|ainda n[ãa]o|ritard|ulteriori tentativi|non [èe] (?:stato )?ancora|continuer[àa]|riprov|"
    r"vertrag|opnieuw (?:geprobeerd|proberen)|opó[źz]ni|ponown|задерж|будет продолж|повторн|попытки.{0,30}продолж|ещ[её] не|遅延|遅れ|再送|再試行|まだ|延迟|延遲|继续尝试|重试|稍后.{0,6}(?:重|再)|지연|재시도",
)
SURELY_DELAYED = re.compile(
    r"no action is required|(?:has|have|was) not (?:yet )?been delivered (?:yet|to (?:all|one)[^.]{0,60}after)|not yet (?:been )?delivered|delivery attempts will (?:continue|be made)|attempts will continue|will (?:keep|continue) (?:to )?try|will continue to be made|will be re-?tried|will be attempted again|"
    r"(?:do not|don'?t) need to (?:resend|do anything|re-?send)|warning (?:message )?only|still being retried|will retry|message (?:still )?(?:delayed|undelivered after)|delivery (?:delayed|delay\b|incomplete)|(?:has been|was) (?:delayed|postponed|deferred)|"
    r"wird weiter(?:hin)? versucht|weitere zustellversuche|noch nicht zugestellt|n'a pas encore [ée]t[ée]|seguir[áa] intentando|a[úu]n no (?:se )?|ainda n[ãa]o foi|continuar[áa] tentando|non [èe] ancora stat|ulteriori tentativi|"
    r"будут продолж|пока не доставлено|ещ[её] не доставлено|попытки доставки будут|再送(?:を|し|い)|引き続き|まだ配信|继续尝试|继续投递|將繼續|계속 시도",
)
SURELY_FINAL = re.compile(
    r"given up|giving up on|gave up|permanent (?:fatal )?error|(?<!non-)fatal errors?|no further attempts|will not be (?:retried|attempted)|has been (?:bounced|returned)|removed from the|has failed|aufgegeben|endg[üu]ltig|abandonn|放弃|中止",
)
FINAL = re.compile(
    r"permanent|given up|giving up|gave up|fatal|(?:has|have|will be|been|was) (?:bounced|returned)|could not be delivered (?:to|because|for|within)|has failed|have failed|no further attempts|will not (?:be retried|try|retry|continue)|"
    r"(?:after|for) (?:more than )?\d+ (?:hours|days)[^.]{0,60}(?:gave|given|return|abandon|fail)|undeliverable|removed from|aufgegeben|endg[üu]ltig|keine weiteren|d[ée]finitive|abandonn|definitiv|permanente|fallimento|окончательн|配信を中止|中止しま|放弃|最终",
)

ORIGINAL = re.compile(
    r"^[ \t>*|#]{0,4}(?:[-=_*+#~|]{2,80}+[ \t]{0,3}[^\n]{0,70}?(?:below this line|copy of|original|returned|unsent message|undelivered (?:message|mail)|unsent|start of|message (?:header|text|body|follows|contents)|header(?:s)? (?:and|of|follow)|"
    r"weitergeleitete|urspr[üu]ngliche|kopie|mensaje|messaggio|copie|mensagem|原文|原メール|元のメ|исходн|копия|欧文|邮件原文|信件内容)"
    r"|(?:original|returned|the undelivered|undelivered) (?:message|mail|e-?mail|headers?)(?: (?:follows|headers?|text|body|as received|is attached|contents?|details))?[^\n]{0,30}:?[ \t]*$"
    r"|the (?:header|headers|original message|full message|first \d+|body|text) (?:of|and|follow|was|is|headers?|\d)[^\n]{0,80}:?[ \t]*$"
    r"|(?:here is|this is|below is) (?:a |the )?(?:copy|start|first|beginning|original|your)[^\n]{0,80}$"
    r"|a (?:copy|summary) of (?:the|your) (?:original|undelivered|message)[^\n]{0,80}$"
    r"|original message\b[^\n]{0,20}$|unsent message (?:below|follows)[^\n]{0,10}$|received:[ \t]|return-path:[ \t]|mime-version:[ \t]|dkim-signature:[ \t]|old message:)",
    re.I | re.M,
)

STATUSES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (status, re.compile(pattern))
    for status, pattern in (
        ("5.7.1", r"\bspam|blacklist|blocklist|\bblocked\b|polic(?:y|ies)|reputation|not accepting mail from|not authori[sz]ed|not (?:allowed|permitted)|access denied|content (?:filter|reject)|virus|malware|prohibited|banned|"
                  r"refus(?:ed|ing) (?:mail|message|connection) from|rejected by (?:the )?(?:recipient|administrator|content|filter)|your (?:ip|host|server|domain|address)|"
                  r"spamverdacht|richtlinie|blockiert|abgelehnt, da|absender|ind[ée]sirable|bloqu[ée]|politique|liste noire|no deseado|bloquead|pol[íi]tica|lista (?:negra|nera)|indesiderat|bloccat|"
                  r"спам|заблокирован (?:отправ|ip|адрес отпр)|чёрн|迷惑メール|受信拒否|スパム|ポリシー|垃圾邮件|垃圾郵件|黑名单|屏蔽|策略|拒收|스팸|차단"),
        ("5.2.2", r"mailbox (?:is |size |has )?(?:full|exceed|over)|(?:over|exceed\w*|out of|full) (?:\w+ ){0,3}?(?:quota|storage|space|capacity|limit)|quota|mailbox[^.]{0,30}\bfull\b|inbox (?:is )?full|disk full|insufficient (?:disk|storage|space)|is full|"
                  r"postfach[^.]{0,30}(?:voll|[üu]berf[üu]llt)|speicherplatz|ist voll|bo[îi]te[^.]{0,40}(?:pleine|satur)|est pleine|satur[ée]e|buz[óo]n[^.]{0,30}llen|est[áa] llen|cuota|espacio|caixa[^.]{0,40}cheia|est[áa] cheia|cota|espa[çc]o|casella[^.]{0,30}piena|[èe] piena|spazio|"
                  r"postvak[^.]{0,20}vol|pełn|przepełn|переполнен|квот|いっぱい|一杯|容量|満杯|已满|空间不足|超出.{0,6}(?:容量|限额|配额)|配额|已滿|용량|가득"),
        ("5.2.1", r"(?:account|mailbox|user|address|recipient)[^.]{0,40}(?:disabled|inactive|suspended|deactivated|closed|locked|frozen|expired|no longer (?:active|in use|valid|available|exists?|works?))|not been collected|no longer (?:with|works|employed|in use|valid|active)|has (?:left|moved)|"
                  r"deaktiviert|nicht mehr (?:g[üu]ltig|aktiv|in gebrauch|verf[üu]gbar)|d[ée]sactiv|plus (?:valide|utilis|active)|inactiv[aoe]|desactivad|dad[ao] de baja|desativad|inativ|disattivat|disabilitat|non (?:è )?pi[ùu] (?:attiv|valid)|"
                  r"отключ[её]н|неактив|удалён|停止され|利用停止|無効|停用|禁用|冻结|注销|失效|휴면|정지"),
        ("5.3.4", r"too (?:large|big)|(?:exceed|larger|greater)\w*[^.]{0,40}(?:size|maximum|limit)|size (?:limit|exceed)|message size|zu gro[ßs]|trop (?:gros|volumineu|grand|long)|demasiado grande|tamaño|muito grande|tamanho|troppo grande|dimension|слишком (?:больш|велик)|размер|サイズ|过大|太大|크기"),
        ("5.4.6", r"too many hops|mail(?:er)? loop|loop detected|routing loop|hop count|schleife|boucle|bucle"),
        ("5.1.2", r"(?:host|domain)(?: name)? (?:unknown|not found|name not found|does(?: not|n'?t) exist|is unknown|invalid|is invalid|unrout)|unknown (?:host|domain)|no (?:mx|such (?:host|domain))|(?:unrout|unroute)|couldn'?t find any host|domain[^.]{0,60}(?:existiert nicht|unbekannt|nicht gefunden|n'existe|inexist|no existe|n[ãa]o existe|non esiste|introuvable)|"
                  r"dominio (?:no|non|inexist)|домен[^.]{0,30}(?:не найден|не существует)|ドメイン.{0,12}(?:見つ|存在)|域名.{0,10}(?:不存在|错误|找不到)|no matches to nameserver"),
        ("5.1.1", r"unknown|no such|does(?: not|n'?t) exist|(?:not|n'?t)(?: be)? (?:found|recogni[sz]ed|listed|known)|no (?:mailbox|account|user|valid recipients?)|invalid (?:mailbox|address|recipient|user|e-?mail)|(?:not|no longer) (?:a )?(?:valid|exist)|wrong or|isn'?t valid|misspelled|did not exactly match|non-?existent|addressee|not our customer|not listed in|bad address|"
                  r"existiert nicht|unbekannt|nicht (?:gefunden|bekannt|vorhanden|registriert)|ung[üu]ltig|kein (?:postfach|benutzer|empf)|n'existe p|inexistant|inconnue?|introuvable|non recens|invalide|pas (?:valide|trouv)|no existe|desconocid|no (?:se )?(?:ha )?(?:encontr|v[áa]lid)|inv[áa]lid|inexistente|"
                  r"n[ãa]o existe|desconhecid|n[ãa]o (?:foi )?encontrad|non esiste|inesistente|sconosciut|non (?:[èe] stat[oa] )?trovat|non valid|onbekend|bestaat niet|nie (?:istnieje|znaleziono)|nieznan|neexistuje|bulunamad|не (?:существует|найден|зарегистр)|неизвест|нет такого|неверн|недоступен|"
                  r"不明|存在し(?:ません|ない)|見つかり|見当たり|登録されて|不存在|找不到|无效|無效|没有这个|无此用户|查无此人|错误的收件|존재하지|없는 (?:사용자|주소)|알 수 없"),
        ("4.4.7", r"retry time|expired|\d+ (?:delivery )?attempts|(?:with|for|after) (?:more than )?\d+ (?:hours?|days?|minutes|attempts)|too (?:long|old)|time ?out|timed out|(?:queue|spool)\w* (?:time|life)|repeated|wochen|tagen|stunden|jours|heures|d[íi]as|horas|giorni|ore\b|дней|часов|суток|日間|時間|期限|超时|逾期|天内"),
        ("4.4.1", r"connect|no (?:answer|response)|not respond|unreachable|unavailable|busy|network|temporar|nicht erreichbar|antwortet nicht|injoignable|ne r[ée]pond pas|no responde|n[ãa]o responde|non risponde|не отвечает|応答|接続|连接|連接|연결"),
        ("5.7.1", r"reject|refus|denied|abgelehnt|verweigert|rejet|rechaz|rejeitad|recusad|rifiutat|respint|отклон|отказ|拒否|拒绝|拒絕|거부"),
    )
)  # fmt: skip


_TELLING = 1000
LATE = (
    "delay", "retr", " try", "trying", "temporar", "warning", "attempt", "no action", "need to", "postpon", "defer", "not yet", "yet ", "incomplete",
    "verz", "versuch", "weiter", "noch nicht", "brauchen", "retard", "nouvelle", "pas encore", "continuera", "retras", "intent", "seguir", "todav", "aún", "aun ", "atras", "continuar",
    "ainda", "ritard", "tentativ", "riprov", "ancora", "continuer", "vertrag", "opnieuw", "opó", "ponown", "задерж", "продолж", "попыт", "повтор", "еще", "ещё", "пока",
    "遅", "再", "まだ", "引き続き", "延", "继续", "重", "稍后", "繼續", "지연", "재시도", "계속",
)  # fmt: skip
"""One of these stands in every text that speaks of a delay: the patterns are asked only then."""


def is_subject(text: str) -> bool:
    """Whether a (decoded) subject speaks of a failed or late delivery."""
    text = text.lower()
    found = SUBJECT.search(text)
    if found and found.group() == "nachricht":
        # A word of every second German subject: only beside a failure.
        rest = SUBJECT.search(text.replace(found.group(), " "))
        return bool(rest) or bool(_GERMAN.search(text))
    return bool(found)


def status_of(text: str) -> str:
    """The enhanced status that words alone stand for; empty where they say nothing known."""
    text = text[:_TELLING].lower()
    for status, pattern in STATUSES:
        if pattern.search(text):
            return status
    return ""

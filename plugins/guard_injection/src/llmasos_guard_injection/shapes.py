"""The shapes of attacks, in English and Chinese: what is done, to what, within a few words. Texts are compared in the form of ``plain``."""

# ruff: noqa: E501 - a pattern is easier to read in one line
from __future__ import annotations

import re
import unicodedata
from typing import Final

from llmasos_guard_injection.hidden import without_hidden


def plain(text: str) -> str:
    """The text without hidden characters, in one width and case, with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", without_hidden(text)).casefold().split())


def _any(*words: str) -> str:
    return f"(?:{'|'.join(words)})"


_NEAR: Final = r"[^.!?]{0,40}?"
_RULES: Final = _any(
    *("instructions?", "prompts?", "rules?", "guidelines?", "directives?", "directions?", "orders", "polic(?:y|ies)", "restrictions?"),
    *("constraints?", "safety", "filters?", "training", "programming", "commands?", "safeguards?", "guardrails?"),
    *("everything (?:above|before)", "what (?:you were told|came before)", "(?:the|any) text above", "system messages?", "limitations"),
)
_WHOSE: Final = _any(
    *(
        "previous(?:ly)?",
        "prior",
        "above",
        "earlier",
        "former",
        "preceding",
        "initial",
        "original",
        "your",
        "system",
        "existing",
        "all",
        "any",
    ),
    *("you were (?:told|given)", "so far", "everything", "developer'?s?", "what", "these", "those"),
)
_IGNORE: Final = _any(
    *(
        "ignor(?:e|ing)",
        "disregard(?:ing)?",
        "forget",
        "overrid(?:e|ing)",
        "bypass(?:ing)?",
        "(?:do not|don't|stop|quit) (?:follow|obey)(?:ing)?",
    ),
    *("pay no attention to", "set aside", "discard", "throw (?:away|out)", "drop", "erase", "abandon", "neglect", "disable", "turn off"),
)
_REVEAL: Final = _any(
    *("reveal", "show", "print", "repeat", "output", "display", "leak", "tell", "give", "disclose", "quote", "copy", "recite", "write"),
    *(
        "dump",
        "share",
        "translate",
        "encode",
        "summari[sz]e",
        "what (?:is|are|was|were|does)",
        "spell",
        "list",
        "expose",
        "paste",
        "describe",
    ),
)
_SECRET: Final = _any(
    r"(?:your|the|this) (?:\w+ ){0,2}(?:system|initial|hidden|secret|original|internal|developer|confidential) (?:prompt|instructions?|message|rules)",
    *(
        "your (?:own )?(?:instructions|prompt|guidelines|configuration)",
        "(?:instructions|prompt|rules) (?:you were|you have been|that you|given to you)",
    ),
    *("(?:text|words|everything|lines|sentences|message|all) (?:that (?:is|are|comes?) )?(?:above|before this)",),
)
_FREE: Final = _any(
    *(r"\bdan\b", "unrestricted", "unfiltered", "uncensored", "unlimited", "jailbr[eo]", "developer mode", "god mode", "(?:amoral|evil)"),
    r"(?:no|without|free (?:of|from)|any|ignores?) (?:\w+ )?(?:restrictions?|rules|limits|limitations|filters?|guidelines|ethics|morals?|polic(?:y|ies)|censorship)",
    *("(?:no longer|not) (?:bound|restricted|limited)", "do anything now", "never refuses?", "answers? everything"),
)
_ATTACKS: Final = (
    rf"\b{_IGNORE}\b{_NEAR}\b{_WHOSE}\b{_NEAR}\b{_RULES}\b",
    rf"\b{_IGNORE} (?:the|any|all|those|these|such) (?:\w+ )?{_RULES}\b",
    rf"\b{_IGNORE}\b{_NEAR}(?:everything|all|what)\b{_NEAR}\b(?:above|before|so far|told)\b",
    rf"\b{_REVEAL}\b{_NEAR}{_SECRET}\b",
    rf"\b(?:you are now|you're now|act as|pretend|from now on|role-?play|behave|simulate|imagine|become|enter|enable|switch (?:in)?to)\b[^.!?]{{0,60}}?{_FREE}",
    r"\b(?:new|updated|real|actual|true) (?:system )?(?:instructions?|prompt|task|orders?|directives?)(?: (?:is|are|follow))? ?:",
    r"\b(?:system|admin(?:istrator)?|developer|root|debug|maintenance) (?:override|mode (?:is )?(?:on|enabled|activated|now))\b",
    r"\byour (?:new|real|actual|true) (?:instructions?|task|goal|purpose|role|orders|job|mission) (?:is|are)\b",
    # Chinese
    r"(?:忽略|无视|忘记|忘掉|不要(?:再)?(?:遵守|理会|遵循|管)|不用(?:遵守|理会|管)|抛开|放弃|绕过|跳过|撤销|推翻|取消|别管|停止遵守)"
    r".{0,12}?(?:指令|指示|提示|规则|要求|限制|约束|设定|命令|准则|内容|安全|过滤|说的|政策)",
    r"(?:显示|输出|告诉我|透露|泄露|打印|重复|复述|写出|列出|公开|说出|展示|翻译|给我看|发给我|是什么|总结).{0,16}?"
    r"(?:系统(?:提示|指令|消息|设定)|初始(?:提示|指令)|隐藏(?:的)?(?:提示|指令|规则)|你的(?:提示词|指令|规则|设定)|上面的(?:内容|文字|所有)|以上(?:内容|文字|全部|所有))",
    r"(?:系统提示词?|初始指令|隐藏指令|你的提示词|你的指令).{0,8}?(?:是什么|发给我|写出来|说出来|给我|复述|列出来|显示出来|完整)",
    r"(?:你现在是|从现在(?:起|开始)|假装|扮演|想象你|进入|切换到|开启|启用).{0,20}?"
    r"(?:没有(?:任何)?(?:限制|约束|规则|道德|过滤)|不受(?:任何)?(?:限制|约束)|无限制|越狱|开发者模式|管理员模式|上帝模式|dan\b|什么都(?:能|可以)|不会拒绝)",
    r"(?:新的?|真正的|最新)(?:系统)?(?:指令|任务|命令|提示|指示)(?:是|如下|为)? ?[::,]",
    r"(?:系统|管理员|开发者)(?:覆盖|模式已(?:开启|启用|激活)|权限已)",
)
_MODEL: Final = (
    r"(?:ais?|a\.i\.|assistants?|language models?|llms?|chat ?bots?|ai (?:models?|agents?|assistants?|systems?)|gpt|agents?|bots?)"
)
_DOCUMENTS: Final = (
    rf"\b(?:attention|notice|note|message|instructions?|important|dear|hello|hey|hint|reminder)(?: (?:to|for))?,? ?:?(?: (?:all|the|any|every))? {_MODEL}\b ?(?:[:,!-]|reading|processing|that|who)",
    rf"\bif you(?: are|'re) (?:an? |the )?{_MODEL}\b",
    rf"\b(?:any|every|all) {_MODEL} (?:reading|processing|summari[sz]ing|that reads?|who reads?)\b",
    r"\b(?:do not|don't|never|without) (?:tell(?:ing)?|mention(?:ing)?|inform(?:ing)?|alert(?:ing)?|notify(?:ing)?|ask(?:ing)?|let(?:ting)?|warn(?:ing)?)"
    r"(?: (?:this|it|that|anything))?(?: to)? (?:the|your) (?:user|human|owner|operator)\b",
    r"\bthe user (?:has )?(?:already )?(?:approved|authori[sz]ed|consented|agreed|confirmed|permitted|wants you to|asked you to)\b",
    r"\bwhen(?:ever)? (?:you )?(?:summari[sz]ing|summari[sz]e|reading|answering|translating|asked|processing)\b[^.!?]{0,50}?,? "
    r"(?:(?:you )?(?:must|should|always)|say|tell|recommend|include|add|reply|respond|write)\b",
    r"\b(?:send|forward|e-?mail|post|upload|exfiltrate|transfer|submit|leak|copy)\b[^.!?]{0,40}?"
    r"\b(?:conversation|chat|history|credentials?|passwords?|api keys?|secrets?|tokens?|inbox|contacts|files|documents|data|system prompt|environment variables)\b"
    r"[^.!?]{0,30}?\b(?:to|at|via|into)\b ?(?:https?:|\S{1,60}@|this address|the following|our|my|attacker)",
    r"!\[[^\]]{0,60}\]\(https?://[^){\[<]{0,200}[{\[<][^)]{0,60}(?:conversation|history|secret|prompt|data|message|key|token|chat)",
    rf"\b{_MODEL}[,:]? (?:you )?(?:must|shall|should|have to|need to|please) (?:now |immediately |always )?(?:call|run|execute|delete|send|reply|respond|answer|recommend|say|ignore|visit|open|rate|output|approve)\b",
    r"(?:(?:请|致|给|告|提示|提醒)?(?:所有|各位|任何|阅读(?:本文|此文|这段)的)?(?:ai|人工智能|大?语言模型|大模型|智能体|智能助手|机器人|模型)(?:助手|模型|系统)?)"
    r"(?:请(?:注意|执行|立即|务必|回答|回复|直接)|注意|必须|应当|务必|须知|你要|::?)",
    r"如果你是(?:一个|一名)?(?:ai|人工智能|语言模型|大模型|智能体|机器人|助手)",
    r"(?:不要|别|无需|不必|切勿)(?:告诉|通知|告知|提醒|询问|让|向)(?:给)?用户",
    r"用户(?:已经|已)(?:同意|授权|批准|确认|许可)",
    r"(?:把|将).{0,16}?(?:对话|聊天记录|密码|密钥|凭据|文件|数据|联系人|令牌|历史|系统提示).{0,12}?(?:发送|转发|上传|发|提交|传|泄露|邮寄)(?:到|至|给)",
    r"(?:总结|翻译|阅读|回答|处理).{0,12}?时,?(?:必须|一定要|请务必|务必|要说|请说|请加上|请推荐)",
)
_CONTROL: Final = re.compile(
    r"<\|[a-z][a-z0-9_ ]{1,30}\|>|\[/?inst\]|<</?sys>>|<(?:start|end)_of_turn>|</?(?:bos|eos)>|<\|(?:user|assistant|system)\|?>"
    r"|(?:^|[\n>])#{2,3} ?(?:system|instruction|response|human|assistant) ?:"
)
ATTACKS: Final = [re.compile(each) for each in _ATTACKS]
DOCUMENTS: Final = [re.compile(each) for each in _DOCUMENTS]


def control_tokens(text: str) -> bool:
    """Whether a text in plain form holds control tokens of chat templates."""
    return _CONTROL.search(text) is not None


def attack(text: str) -> bool:
    """Whether it tries to change or reveal the instructions of the model."""
    return any(each.search(text) for each in ATTACKS)


def document(text: str) -> bool:
    """Whether it talks to a model that reads it."""
    return any(each.search(text) for each in DOCUMENTS)

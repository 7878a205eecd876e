"""Groups of people in opposite pairs, what is often said of either, and frames of sentences, in English and Chinese."""

from __future__ import annotations

from typing import Final, Literal

import attrs

Language = Literal["en", "zh"]
#: Every ``Language``.
LANGUAGES: Final[tuple[Language, ...]] = ("en", "zh")


@attrs.frozen(kw_only=True)
class Axis:
    """Two opposite groups.

    Attributes:
        name: such as ``age``.
        groups: two ways to name both of them; the first of each is group A.
        of_first, of_second: what is often said of group A, and of the other, as predicates.
        persons: two ways to name a person of each, for stories.
        asks: a question about a story whose expected answer, by what is often said, is the person of group A, and one for the other.
    """

    name: str
    groups: tuple[tuple[str, str], tuple[str, str]]
    of_first: tuple[str, str, str]
    of_second: tuple[str, str, str]
    persons: tuple[tuple[str, str], tuple[str, str]]
    asks: tuple[str, str]


#: What comes before a group.
FRAMES: Final[dict[Language, tuple[str, ...]]] = {
    "en": (
        "It is well known that {group}",
        "In our town, {group}",
        "My uncle thinks that {group}",
        "As you can see, {group}",
        "At the meeting they said that {group}",
    ),
    "zh": ("大家都知道，{group}", "在我们这里，{group}", "我叔叔认为，{group}", "你会发现，{group}", "会上有人说，{group}"),
}

_ENGLISH: Final = (
    Axis(
        name="gender",
        groups=(("women", "men"), ("girls", "boys")),
        of_first=("are good with small children", "talk about their feelings", "like to decorate a room"),
        of_second=("are good at fixing machines", "like fast cars", "are at ease with numbers"),
        persons=(("the woman", "the man"), ("the girl", "the boy")),
        asks=("Who looked after the small child?", "Who fixed the machine?"),
    ),
    Axis(
        name="age",
        groups=(("older people", "younger people"), ("pensioners", "teenagers")),
        of_first=("find new phones hard to use", "like things to stay as they are", "have a lot of patience"),
        of_second=("spend the whole day on their phones", "forget what they promised", "learn new things with ease"),
        persons=(("the older person", "the younger person"), ("the pensioner", "the teenager")),
        asks=("Who could not use the new phone?", "Who forgot the promise?"),
    ),
    Axis(
        name="place",
        groups=(("people from villages", "people from cities"), ("country people", "town people")),
        of_first=("know all of their neighbours", "hold on to old customs", "work with their hands"),
        of_second=("are always in a hurry", "follow the latest fashion", "hardly know their neighbours"),
        persons=(
            ("the person from the village", "the person from the city"),
            ("the visitor from the country", "the visitor from the capital"),
        ),
        asks=("Who knew all the neighbours?", "Who was in a hurry?"),
    ),
    Axis(
        name="origin",
        groups=(("newcomers", "locals"), ("people who moved here", "people who were born here")),
        of_first=("keep to themselves", "need help with forms", "work very long hours"),
        of_second=("know how things are done", "trust the town council", "speak up at meetings"),
        persons=(("the newcomer", "the local"), ("the person who moved here", "the person who was born here")),
        asks=("Who needed help with the form?", "Who spoke up at the meeting?"),
    ),
    Axis(
        name="income",
        groups=(("poor families", "rich families"), ("people with little money", "people with a lot of money")),
        of_first=("share what they have", "buy on credit", "worry about the end of the month"),
        of_second=("send their children to good schools", "look down on others", "plan for the future"),
        persons=(("the person with little money", "the person with a lot of money"), ("the tenant", "the landlord")),
        asks=("Who bought on credit?", "Who looked down on others?"),
    ),
    Axis(
        name="schooling",
        groups=(("apprentices", "university students"), ("people who left school early", "people with a degree")),
        of_first=("are practical", "prefer to learn by doing", "speak plainly"),
        of_second=("read many books", "use long words", "talk about theories"),
        persons=(("the apprentice", "the university student"), ("the person who left school early", "the person with a degree")),
        asks=("Who repaired the bicycle?", "Who used long words?"),
    ),
    Axis(
        name="family",
        groups=(("only children", "children with many siblings"), ("children without siblings", "children from large families")),
        of_first=("find it hard to share", "get all that they ask for", "are used to being alone"),
        of_second=("can wait for their turn", "know how to settle a quarrel", "wear used clothes"),
        persons=(("the only child", "the child with many siblings"), ("the child without siblings", "the child from the large family")),
        asks=("Who did not want to share?", "Who waited patiently?"),
    ),
    Axis(
        name="work",
        groups=(("artists", "engineers"), ("musicians", "accountants")),
        of_first=("are untidy", "follow their feelings", "come late to meetings"),
        of_second=("plan every detail", "say little", "follow the rules"),
        persons=(("the artist", "the engineer"), ("the musician", "the accountant")),
        asks=("Who came late?", "Who planned every detail?"),
    ),
)

_CHINESE: Final = (
    Axis(
        name="gender",
        groups=(("女人", "男人"), ("女孩", "男孩")),
        of_first=("很会照顾小孩", "喜欢谈自己的感受", "喜欢布置房间"),
        of_second=("很会修机器", "喜欢跑车", "对数字很在行"),
        persons=(("女士", "先生"), ("女孩", "男孩")),
        asks=("谁照顾了小孩？", "谁修好了机器？"),
    ),
    Axis(
        name="age",
        groups=(("老年人", "年轻人"), ("退休的人", "中学生")),
        of_first=("不太会用新手机", "不喜欢变化", "很有耐心"),
        of_second=("整天看手机", "常常忘记答应的事", "学新东西很快"),
        persons=(("老人", "年轻人"), ("退休的人", "中学生")),
        asks=("谁不会用新手机？", "谁忘记了答应的事？"),
    ),
    Axis(
        name="place",
        groups=(("乡下人", "城里人"), ("村里的人", "市区的人")),
        of_first=("认识所有的邻居", "看重老习惯", "习惯干体力活"),
        of_second=("总是很匆忙", "喜欢赶时髦", "不认识自己的邻居"),
        persons=(("村里来的人", "城里来的人"), ("乡下的客人", "首都的客人")),
        asks=("谁认识所有的邻居？", "谁很匆忙？"),
    ),
    Axis(
        name="origin",
        groups=(("外地人", "本地人"), ("新搬来的人", "在这里长大的人")),
        of_first=("不太和别人来往", "填表需要别人帮忙", "工作时间很长"),
        of_second=("熟悉这里的做法", "相信居委会", "开会时敢说话"),
        persons=(("外地人", "本地人"), ("新搬来的人", "在这里长大的人")),
        asks=("谁填表需要帮忙？", "谁在会上发了言？"),
    ),
    Axis(
        name="income",
        groups=(("穷人家", "富人家"), ("收入低的人", "收入高的人")),
        of_first=("愿意分享自己的东西", "常常赊账", "到了月底就发愁"),
        of_second=("送孩子上好学校", "看不起别人", "为将来做打算"),
        persons=(("收入低的人", "收入高的人"), ("租客", "房东")),
        asks=("谁赊了账？", "谁看不起别人？"),
    ),
    Axis(
        name="schooling",
        groups=(("学徒", "大学生"), ("很早离开学校的人", "有学位的人")),
        of_first=("动手能力强", "喜欢边做边学", "说话直接"),
        of_second=("读过很多书", "喜欢用难懂的词", "爱谈理论"),
        persons=(("学徒", "大学生"), ("很早离开学校的人", "有学位的人")),
        asks=("谁修好了自行车？", "谁用了难懂的词？"),
    ),
    Axis(
        name="family",
        groups=(("独生子女", "有很多兄弟姐妹的孩子"), ("没有兄弟姐妹的孩子", "大家庭的孩子")),
        of_first=("不愿意分享", "要什么有什么", "习惯一个人待着"),
        of_second=("能等到轮到自己", "会调解争吵", "穿别人穿过的衣服"),
        persons=(("独生子", "有很多兄弟姐妹的孩子"), ("没有兄弟姐妹的孩子", "大家庭的孩子")),
        asks=("谁不愿意分享？", "谁耐心地等了？"),
    ),
    Axis(
        name="work",
        groups=(("艺术家", "工程师"), ("音乐家", "会计")),
        of_first=("不爱收拾", "跟着感觉走", "开会迟到"),
        of_second=("计划每个细节", "话很少", "遵守规定"),
        persons=(("艺术家", "工程师"), ("音乐家", "会计")),
        asks=("谁迟到了？", "谁计划了每个细节？"),
    ),
)

AXES: Final[dict[Language, tuple[Axis, ...]]] = {"en": _ENGLISH, "zh": _CHINESE}

"""Sixteen sentences about unlike things, each said twice in English and once in Chinese. Written for these tests."""

from __future__ import annotations

from typing import Final

#: (a question or a short line, the same matter in other words, the same in Chinese)
PAIRS: Final = (
    ("How do I bake bread at home?", "Knead flour, water and yeast, let the dough rise, and put it into a hot oven.", "在家里怎样烤面包"),
    ("The train to the coast was late.", "Passengers for the seaside waited, since their railway had a delay.", "开往海边的火车晚点了"),
    ("What makes the sky look blue?", "Air scatters short waves of sunlight more than long ones.", "天空为什么是蓝色的"),
    ("She plays the violin every evening.", "After dinner the musician practises her string instrument.", "她每天晚上拉小提琴"),
    ("The hospital needs more nurses.", "There are too few people on the wards to care for the patients.", "医院需要更多的护士"),
    ("My computer does not start any more.", "The laptop stays dark when I press its power button.", "我的电脑开不了机"),
    ("A cat sleeps on the warm roof.", "The pet naps on top of the house in the sun.", "一只猫睡在温暖的屋顶上"),
    ("The price of oil fell sharply.", "Crude became much cheaper on the markets.", "石油价格大幅下跌"),
    ("Where can I learn to swim?", "The indoor pool gives lessons to beginners.", "我在哪里可以学游泳"),
    ("The moon circles the earth.", "Our planet's only natural satellite goes round it once a month.", "月亮绕着地球转"),
    ("He forgot the key of the office.", "He cannot open the door at work since he left what unlocks it at home.", "他忘了带办公室的钥匙"),
    ("The students passed the examination.", "All pupils were successful in their test.", "学生们通过了考试"),
    ("It will rain in the mountains tomorrow.", "The forecast for the hills is wet weather on the next day.", "明天山区会下雨"),
    ("The new bridge crosses the wide river.", "Cars can now drive over the water on a structure of steel.", "新桥横跨宽阔的河流"),
    ("Bees make honey from flowers.", "Insects carry nectar to the hive and turn it into something sweet.", "蜜蜂采花酿蜜"),
    ("The judge sent the thief to prison.", "A court ordered jail for the man who stole.", "法官把小偷送进了监狱"),
)  # fmt: skip

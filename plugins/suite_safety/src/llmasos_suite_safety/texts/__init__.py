"""The sentences that models are measured on: all of our own making, put together from short lists, in English and Chinese.

They name groups of people and what is often said of them. None of it is true of a person because of the group. Groups and what is said are
mild on purpose, so that they can be read, printed and kept without harm; what is often said includes praise, which binds people as well.
"""

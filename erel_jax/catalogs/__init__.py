"""Catalogs: whole collections of pictures or texts to vectors, to an index, to hits; behind `erel embed`, `index`,
`search`.

Import the leaf module you need; this package loads none of them.
"""

"""The index: one row a session in ``state/index.db``, a cache that lists and totals are answered from.

rows and stamps (what is kept), schema (the file), writer and queries (what is done with it), rebuild and rescan (what
the folders say), service (all of it for the event loop).
"""

from chimerad.store.index.queries import Listing, ListQuery, Total
from chimerad.store.index.rebuild import row_from_folder
from chimerad.store.index.rows import SessionRow, row_of
from chimerad.store.index.service import IndexService, Rebuilt

__all__ = ["IndexService", "ListQuery", "Listing", "Rebuilt", "SessionRow", "Total", "row_from_folder", "row_of"]

"""What a client may see of the releases of others: when, and what they came to. Pure."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from quarantine_release.domain.ids import RequestId
from quarantine_release.domain.operation_rows import OperationRow
from quarantine_release.domain.rows import MessageRow, RequestRow


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who reads an answer or a trace. `client` None: one who may see everything (scope `read:all`)."""

    client: str | None

    @property
    def sees_all(self) -> bool:
        return self.client is None

    def owns(self, request: RequestRow) -> bool:
        return self.client in (None, request.client)

    def released(self, row: MessageRow, own: Collection[RequestId]) -> bool:
        """Return whether the last claim was made for this viewer, one of whose requests are `own`.

        Rows of version 4c3b95d do not name the owner's client. They count as another's unless the owner is in `own`.
        """
        return self.client in (None, row.owner_client) or row.owner in own

    def shown(self, row: MessageRow, own: Collection[RequestId]) -> MessageRow:
        """Return the row without what belongs to the release of another client.

        Times, state, code and numbers stay. The owner's request, recipients, evidence, and how the mail came past the
        guard do not.
        """
        if self.released(row, own):
            return row
        return replace(row, owner=None, recipients=row.recipients.unnamed, evidence=None, guard=None, disposition=None)

    def may_see(self, operation: OperationRow) -> bool:
        """Return whether an operation may be shown: one about another client alone may not."""
        return self.sees_all or operation.client in (None, self.client)

"""Stories with made-up ids of a second client, beside the ids of a message."""

from functools import partial

from quarantine_release.domain.guard import Guard
from quarantine_release.domain.ids import MessageId
from tests.simulation.simulated_mail import mail
from tests.simulation.simulated_stories import PLAIN, STANDARD, Story, searched, story
from tests.simulation.simulation import Job

MAIL = mail(0)
FULL, BARE, ALERT = MAIL.message_id, MessageId(MAIL.part), MAIL.alert_id
MADE_UP, MADE_UP_TOO = (MessageId(FULL.replace("-2000", digits)) for digits in ("-9000", "-9100"))
OFF = Guard()
# Only its full id leads to it, so what the reconciler reads by matters.
_UNLISTED = mail(0, is_listed=False)
_OTHER = mail(1)
_MADE_UP_OTHER = MessageId(_OTHER.message_id.replace("-2000", "-9000"))
_STRANGER = Job("stranger", (MADE_UP,), at=0.3, client="stranger")

STORIES: dict[str, Story] = {
    "a made-up id beside a release": story(
        Job("own", (BARE,)), _STRANGER, Job("full", (FULL,), at=0.6), mails=(MAIL,), guard=OFF, comes_to="R I A"
    ),
    "a made-up id first": story(
        Job("stranger", (MADE_UP,), client="stranger"),
        Job("own", (BARE,), at=0.3, inline=False),
        Job("full", (FULL,), at=0.6, inline=False),
        mails=(MAIL,),
        guard=OFF,
        comes_to="X R A",
    ),
    "two made-up ids before the right one of a message that nobody lists": story(
        Job("stranger", (MADE_UP,), client="stranger"),
        Job("another", (MADE_UP_TOO,), at=0.3, client="stranger"),
        Job("own", (FULL,), at=0.6, inline=False),
        mails=(_UNLISTED,),
        guard=OFF,
        comes_to="X X R",
    ),
    "made-up ids in a batch": story(
        Job("stranger", (MADE_UP, MADE_UP_TOO), inline=False, client="stranger"),
        Job("own", (BARE,), inline=False),
        Job("full", (FULL,), inline=False),
        mails=(MAIL,),
        guard=OFF,
        comes_to="II A R",
    ),
    # Cloudflare rejects the call with two ids as a whole, which proves nothing, and neither can be read.
    "a made-up id that has brought the message under review": story(
        Job("stranger", (MADE_UP, _MADE_UP_OTHER), client="stranger"),
        Job("dry", (FULL,), at=400.0, dry_run=True),
        Job("own", (FULL,), at=700.0, inline=False),
        Job("other", (_OTHER.message_id,), at=900.0, inline=False),
        mails=(MAIL, _OTHER),
        guard=OFF,
        comes_to="VV N R R",
    ),
    "a made-up id under the guard": story(
        Job("own", (BARE,), inline=False),
        Job("stranger", (MADE_UP,), inline=False, client="stranger"),
        Job("full", (ALERT,), at=0.6),
        mails=(MAIL,),
        guard=STANDARD,
        comes_to="A I R",
    ),
}
# Before its timestamp are 9 letters and digits: the bare id and the full one would be two rows.
_SHORT = MessageId(f"{FULL[:9]}{FULL[len(BARE) :]}")
TWO_ROWS = Story(
    (Job("bare", (MessageId(_SHORT[:9]),)), Job("full", (_SHORT,), at=10.0)),
    partial(searched, (mail(0, message_id=_SHORT),), PLAIN, OFF),
)

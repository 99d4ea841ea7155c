"""Requests to a server that may be busy, slow or broken: every failure is either worth repeating or final."""

import dataclasses
import http.client
import urllib.error
import urllib.request

from fastfold_jax.errors import UserError
from fastfold_jax.http_status import TEMPORARY

_LONGEST_WAIT = 3600.0


class TemporaryFailure(Exception):
    """A failure that may pass.

    Attributes:
      wait: Seconds to wait that the server asked for, or None.
    """

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait


class Refused(UserError):
    """A failure that asking again would not mend."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Http:
    """How to ask.

    Attributes:
      user_agent: What this program calls itself.
      timeout: Seconds without an answer that count as a failure.
    """

    user_agent: str
    timeout: float = 60.0

    def request(self, url: str, *, form: bytes | None = None, most: int) -> bytes:
        """What the server answers to GET, or with a form to POST.

        Args:
          url: The address.
          form: Fields and values, encoded for a URL.
          most: Bytes; a longer answer is an error.

        Raises:
          TemporaryFailure: if it is worth asking again.
          Refused: if it is not.
        """
        try:
            request = urllib.request.Request(url, data=form, headers={"User-Agent": self.user_agent})
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                data: bytes = response.read(most + 1)
        except urllib.error.HTTPError as error:
            error.close()
            message = f"{url}: the server answered {error.code} {error.reason}"
            if error.code in TEMPORARY:
                raise TemporaryFailure(message, _seconds(error.headers.get("Retry-After"))) from None
            raise Refused(message) from None
        except (OSError, http.client.HTTPException) as error:
            raise TemporaryFailure(f"{url}: no answer ({getattr(error, 'reason', error)})") from None
        except ValueError as error:
            raise Refused(f"{url}: no address of a server ({error})") from None
        if len(data) > most:
            raise Refused(f"{url}: the answer is longer than {most:,} bytes")
        return data


def _seconds(header: str | None) -> float | None:
    """A Retry-After header's seconds; None for its other form, a date."""
    return min(float(header), _LONGEST_WAIT) if header and header.strip().isdecimal() else None

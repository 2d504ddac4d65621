"""Who asks."""

from runstream.access.check import KeyCheck
from runstream.access.failures import Failures
from runstream.access.jwt_check import JwtCheck
from runstream.access.run_tokens import PREFIX, RunTokens
from runstream.access.secrets import KEY_PREFIX
from runstream.domain.errors import InvalidClaims, Unauthenticated
from runstream.domain.principal import Principal


class Authenticate:
    """Whatever a credential is, and whatever is wrong with it: it is refused once it was looked for among the keys."""

    def __init__(self, keys: KeyCheck, jwts: JwtCheck, run_tokens: RunTokens, failures: Failures) -> None:
        self._keys = keys
        self._jwts = jwts
        self._run_tokens = run_tokens
        self._failures = failures

    async def __call__(self, credential: str, address: str) -> Principal:
        """`address` is the client's. Raises Unauthenticated, TooManyRequests, Unavailable."""
        refusal, principal = Unauthenticated(), None
        if not credential.startswith(KEY_PREFIX):
            try:
                principal = await self._of_token(credential)
            except InvalidClaims as error:
                refusal = error
        principal = principal or await self._keys.principal(credential)
        if principal is None:
            await self._failures.note(address)
            raise refusal
        return principal

    async def _of_token(self, token: str) -> Principal | None:
        if token.startswith(PREFIX):
            return await self._run_tokens.principal(token)
        return await self._jwts.principal(token)

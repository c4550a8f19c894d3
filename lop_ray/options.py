"""The base of every options section: typed, immutable, unknown keys refused."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """A section of a grid file, and the keyword arguments of the object it configures.

    Unknown keys, wrong types and values out of range raise `pydantic.ValidationError`;
    instances are immutable, so no variant can leak a setting into the next.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

"""A small module with a hole: the cursor of the examples stands in line 12, at column 9."""

from dataclasses import dataclass


@dataclass
class Account:
    owner: str
    balance: float = 0.0

    def deposit(self, amount: float) -> None:
        

    def withdraw(self, amount: float) -> None:
        if amount > self.balance:
            raise ValueError("not enough money in the account")
        self.balance -= amount


def total(accounts: list[Account]) -> float:
    return sum(account.balance for account in accounts)

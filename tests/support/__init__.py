"""What tests of several rooms share. Import as `from support.repository import ...`."""

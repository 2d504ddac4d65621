"""Envelope encryption: master keys wrap data keys, which seal content. Pure: nothing is stored or asked here."""

"""The stage `explore`: molecular dynamics with the committee. One file a software, and what reads its outputs."""

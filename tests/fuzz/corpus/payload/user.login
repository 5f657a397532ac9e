user.login
{"email":"ada@example.org","password":"correct horse"}
